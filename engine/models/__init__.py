"""The model that a run starts from, as its arguments want it."""
