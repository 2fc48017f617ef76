"""The one training loop: adapter methods, data order, batches, checkpoints, exact resume, curves, run folder."""
