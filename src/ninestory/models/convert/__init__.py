"""Streaming conversion between checkpoint formats: header first, then blocks of rows, then a rename."""
