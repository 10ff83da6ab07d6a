"""What a hospital's server is made of: the certified model, its standing, its requests."""
