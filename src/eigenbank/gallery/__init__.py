"""The gallery: a static page to browse a catalog's directions by eye. Made of what catalog and sets hold, nothing else."""
