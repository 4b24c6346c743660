"""The making of the embedded pair: its world, its texts, its training, its tables."""
