"""Objects, each written once: a local directory."""
