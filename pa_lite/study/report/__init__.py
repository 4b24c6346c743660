"""A study for its readers: the page, figures, CSV and lm-eval files."""
