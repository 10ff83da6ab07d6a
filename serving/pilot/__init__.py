"""A hospital's own watch over a certified model: what it said, and whether it still holds.

Needs the extra `[monitor]`. What serves imports `prediction` alone.
"""
