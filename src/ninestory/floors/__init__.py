"""What each floor does, as plain Python: typed requests in, typed results out; no HTTP, no printing."""
