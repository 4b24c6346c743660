"""The search for the best lam, or for a coarse schedule around it, with less work than a whole grid."""
