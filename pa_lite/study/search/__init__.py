"""Search for the best lam, or a coarse schedule around it, with fewer evaluations than a full grid."""
