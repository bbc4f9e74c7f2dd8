"""The world of the demo checkpoints: cartoon faces whose factors are known exactly, and training on them."""
