"""GGUF models by llama.cpp: `engine` speaks the protocol, `prompts` makes ids, `library` holds the native server."""
