"""Uncertainty: each method with its assumptions, its reference and what it may gate."""
