"""Floor 8: recipes and text data for tuning; the loop itself is in training/."""
