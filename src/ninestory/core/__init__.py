"""Shared basics: errors, config, paths, progress, tools, logs. Imports no other package of ninestory."""
