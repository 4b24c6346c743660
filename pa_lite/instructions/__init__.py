"""Instruction following: generations, verifiable instructions. Knows the engine, not the study."""
