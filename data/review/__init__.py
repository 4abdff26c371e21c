"""What is wrong or odd in rows, and what mends it."""
