"""Models and datasets that people start from, on this machine or not yet."""
