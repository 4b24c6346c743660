"""Campaigns against a running server: many clients, vanishing clients, all requests that its description allows."""
