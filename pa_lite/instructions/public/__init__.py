"""The public set of verifiable instructions: original requests and constraints, combined from a seed."""
