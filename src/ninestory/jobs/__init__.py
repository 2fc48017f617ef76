"""Long work as durable rows: claim, heartbeat, events, cancel, resume. Runs what floors offer; knows no floor by name."""
