"""One metric at several hospitals: each by itself, what they share, and a hospital not yet seen."""
