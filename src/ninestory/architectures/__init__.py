"""nn.Modules that transformers lacks, one readable file a family."""
