"""OpenAI-compatible endpoints: `engine` speaks to them, `plan` counts what the process here takes."""
