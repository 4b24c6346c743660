"""The OpenAI-compatible HTTP server (extra `serve`): one model, or a pair whose lam each request may name."""
