"""Fleets: their rings, who is in them, and the record of what they are meant to run."""
