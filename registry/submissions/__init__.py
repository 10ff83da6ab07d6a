"""The life of a submission: states, attempts, review, promotion."""
