"""The demonstration: a small guest, and the round trip between two sites with its data checked at every step."""
