"""A page on this machine to look through an index of embed.py: similar windows, a map, labels."""
