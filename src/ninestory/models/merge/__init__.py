"""Merging of releases into one model: weight deltas, chained LoRA adapters, vocabularies. numpy only, streaming."""
