"""The process that holds an untrusted model."""
