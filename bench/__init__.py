"""Each claim about speed, as a program that prints the ratio."""
