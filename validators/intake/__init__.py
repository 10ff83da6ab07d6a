"""May this file be run at all: the decision, from what the sandbox says of it."""
