"""Each role as a process of its own: configuration, life, health, checks."""
