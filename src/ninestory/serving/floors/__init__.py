"""The routes of each floor, composed by gateway.py from floors/table.py."""
