"""How text becomes passages: the structure-aware default, and langchain-ChatGLM's splitters for who compares."""
