"""Objects, write-once: a local directory or S3."""
