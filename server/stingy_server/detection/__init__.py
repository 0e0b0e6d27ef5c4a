"""Detection of keys that look like they extract a model."""
