"""Plans: many checkpoints built, labelled and published by one command, on one machine or on many."""
