"""Verbs of floor 2: knowledge bases and answers from them."""
