"""Where a checkpoint's bytes come from: a folder, a single file, the Hub."""
