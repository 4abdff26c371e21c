"""Answers, how likely they are and what they are worth."""
