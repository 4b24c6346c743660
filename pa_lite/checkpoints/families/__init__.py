"""Model families: what each Hugging Face architecture becomes in GGUF."""
