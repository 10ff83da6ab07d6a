"""The audit log: its tree, its checkpoints, and proofs of both."""
