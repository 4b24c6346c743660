"""The page on which lam is a slider: one self-contained HTML document, and what it shows of a study."""
