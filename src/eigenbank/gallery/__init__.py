"""The gallery: a static page to browse a catalog's directions by eye."""
