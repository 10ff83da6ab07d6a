"""The README's journey as a program."""
