"""Campaigns of faults against pa-lite's promises."""
