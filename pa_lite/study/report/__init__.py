"""Reports of a study: page, figures, CSV and lm-eval files."""
