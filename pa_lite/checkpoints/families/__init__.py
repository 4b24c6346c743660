"""Model families: how each Hugging Face architecture is converted to GGUF."""
