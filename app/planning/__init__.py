"""What a run will do, in facts, words and buttons, before it starts."""
