"""Verbs of floor 1: conversations, prompts, judges and the arena."""
