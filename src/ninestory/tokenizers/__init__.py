"""Tokenizers of every model family, without torch; one loader for serving, training and conversion."""
