"""Floor 1: chat models."""
