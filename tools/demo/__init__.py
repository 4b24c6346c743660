"""Makes the embedded pair: its world, its texts, its training, its tables."""
