"""What is shown of the evidence, and to whom."""
