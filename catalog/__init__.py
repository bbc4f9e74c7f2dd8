"""What ships with the package: the demo checkpoint and its direction set. Data only."""
