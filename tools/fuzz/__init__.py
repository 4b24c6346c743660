"""Fuzzers: feed pa-lite's readers, and llama.cpp, inputs that break every rule."""
