"""Datasets by name: where they lie, what a person changed in them, how they are split and mixed."""
