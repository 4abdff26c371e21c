"""Which weights move, and by which optimiser."""
