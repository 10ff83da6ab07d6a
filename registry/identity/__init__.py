"""Organisations, people, tokens, and the one policy table."""
