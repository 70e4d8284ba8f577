"""Named datasets, one small module per family."""
