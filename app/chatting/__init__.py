"""Conversations with a model that a server holds."""
