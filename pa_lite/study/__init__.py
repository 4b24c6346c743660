"""Studies along lam: plan, run, store, summarise, search and report what is gained and lost."""
