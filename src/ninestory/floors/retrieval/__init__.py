"""Floor 2: answers from local documents, with citations."""
