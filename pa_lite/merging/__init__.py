"""Merge base and instruct: lams, the plan, the block stream, GGUF output."""
