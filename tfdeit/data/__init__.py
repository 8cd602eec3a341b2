"""Augmentations and input pipelines."""
