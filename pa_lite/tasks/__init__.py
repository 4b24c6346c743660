"""Few-shot tasks: specifications, prompts and scores. Uses the engine, but not the study."""
