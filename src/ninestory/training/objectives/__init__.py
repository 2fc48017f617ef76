"""What language models are trained for: next tokens, and preferences. Other floors bring objectives of their own."""
