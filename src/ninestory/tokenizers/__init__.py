"""Every family's tokenizer, without torch; one loader for serving, training and conversion."""
