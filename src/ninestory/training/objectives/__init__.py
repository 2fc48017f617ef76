"""Objectives of language models: next tokens, and preferences. Other floors bring objectives of their own."""
