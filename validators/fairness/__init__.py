"""Gaps of a group against the rest, judged by their interval."""
