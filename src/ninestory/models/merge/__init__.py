"""Two or more releases into one model: weight differences, chained LoRA adapters, vocabularies. numpy only, streaming."""
