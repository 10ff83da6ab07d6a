"""Point estimates, one module a task type."""
