"""Verbs of floor 8: tuning."""
