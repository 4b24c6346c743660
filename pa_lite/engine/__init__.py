"""llama.cpp: models and contexts, scoring with shared prefixes, batched generation. Knows nothing of tasks."""
