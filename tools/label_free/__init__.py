"""How well lams chosen without labels do on labelled tasks: which text works, how much is enough, and the regret."""
