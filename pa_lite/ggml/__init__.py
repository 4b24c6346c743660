"""GGML's formats: the GGUF container, tensor types and kernels, llama-quantize's type rules, importance matrices."""
