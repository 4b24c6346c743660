"""Benchmarks of pa-lite: speed and memory, against the least possible and against other programs."""
