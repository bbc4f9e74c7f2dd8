"""Direction sets: on disk and in memory."""
