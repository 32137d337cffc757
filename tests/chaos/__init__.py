"""Chaos: random operations over many simulated items, while vaults are killed and stopped and sites fall silent."""
