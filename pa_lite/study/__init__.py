"""The study: what is gained and lost along lam. Sits on top of everything but the command line."""
