"""The page: static files under /ui; a client of the public API."""
