"""The public set of verifiable instructions: requests and constraints of our own, put together from a seed."""
