"""Simulates items whose truth is known and measures every interval, test, reading and search that pa-lite reports."""
