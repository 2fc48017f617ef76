"""Tasks, metrics, judges and paired reports. Takes callables (generate, score, search); imports no floor."""
