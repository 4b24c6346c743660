"""Measures pa-lite against what it is meant to beat."""
