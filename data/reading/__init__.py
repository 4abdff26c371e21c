"""Records out of files of every kind, and their bytes and characters. Knows nothing of what a record means."""
