"""The record: who submitted what, what was decided, and who may pull it."""
