"""What a hospital pulls: pack, verify, replay."""
