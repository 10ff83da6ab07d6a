"""The status that hospitals fetch: which certificates are in force, signed and renewed."""
