"""The model against others on the same cases: another model, or the readers of a hospital."""
