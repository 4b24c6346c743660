"""Measure instruction following with verifiable instructions."""
