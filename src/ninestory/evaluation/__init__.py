"""Tasks, metrics, judges and paired reports. Models are passed in as callables (generate, score, search); imports no floor."""
