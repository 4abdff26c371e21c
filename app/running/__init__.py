"""Runs: listed, started, stopped and watched live."""
