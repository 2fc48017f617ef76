"""Small shared things: errors, config, paths, progress, tools, logs. Imports nothing of ninestory."""
