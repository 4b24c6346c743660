"""Merging: lams, the plan, the block stream, GGUF output."""
