"""The difference of a pair as a LoRA adapter: which matrices it carries, their factors and ranks, the file."""
