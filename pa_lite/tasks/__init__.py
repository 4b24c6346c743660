"""Few-shot tasks: specifications, prompts, scores. Knows the engine, not the study."""
