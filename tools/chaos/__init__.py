"""Fault campaigns: disturb real commands and check pa-lite's promises."""
