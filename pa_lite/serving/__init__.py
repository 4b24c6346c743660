"""Using a model: a chat in the terminal, answers side by side, and the OpenAI-compatible server."""
