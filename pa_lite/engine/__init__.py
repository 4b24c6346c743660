"""llama.cpp: models and contexts, scoring with shared prefixes, batched generation. Independent of tasks."""
