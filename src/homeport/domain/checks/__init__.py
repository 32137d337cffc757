"""Checks: what stands in the way of an operation, or will, told before it is begun. One small pure function each."""
