"""The HTTP way in: a gateway that never imports torch, and one worker process a model."""
