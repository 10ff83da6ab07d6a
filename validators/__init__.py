"""The science: from locked data and raw predictions to evidence and verdict."""
