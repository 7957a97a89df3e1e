"""Weights in files: the checkpoint format, the names of others, and what fits what."""
