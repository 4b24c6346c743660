"""From a pair and a user's own rows, tasks or text to the lam for them: a first pass, a search, a final check."""
