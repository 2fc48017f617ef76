"""From a model's name to files that are safe to open: reference, catalogue, pull, verify, convert, templates, memory plan."""
