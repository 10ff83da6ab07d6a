"""The leaf of the project: what two parties who do not trust each other must compute alike.

Canonical JSON, digests, the Merkle tree, signatures, the validation certificate.
Nothing in here imports anything else of the project, so that a hospital can read it alone.
"""
