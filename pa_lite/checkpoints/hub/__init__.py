"""The Hugging Face Hub: references, downloads, the shared cache, and byte ranges of files that stay there."""
