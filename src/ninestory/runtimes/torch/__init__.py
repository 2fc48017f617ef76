"""Causal models in torch: one engine that batches continuously, for every family."""
