"""nn.Modules of model families that transformers lacks, one file per family."""
