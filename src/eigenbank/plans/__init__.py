"""Plans: build, label and publish many checkpoints with one command, on one machine or on many.

`files.py` reads a plan and its lock, `check.py` looks at every checkpoint before a run, `steps.py` says which steps a
checkpoint needs and does them, `executors.py` gives them to workers, and `run.py` is the loop over all checkpoints.
"""
