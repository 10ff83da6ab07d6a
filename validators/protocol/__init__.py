"""What was fixed before the first run."""
