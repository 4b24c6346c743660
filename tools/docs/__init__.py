"""References generated from the code by `python -m tools.docs`; a test fails when they are out of date."""
