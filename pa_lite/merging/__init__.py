"""Merging: lams, the plan, the block stream, GGUF output. Imports nothing here: `pa_lite.merge` is also a function."""
