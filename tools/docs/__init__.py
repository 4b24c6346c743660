"""References made from the code: `python -m tools.docs` writes them, and a test fails where they are not today's."""
