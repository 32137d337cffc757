"""Sizes and durations by name. Bytes and seconds everywhere; no other unit crosses a function's boundary."""

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30
TiB = 1 << 40

BLOCK = 16 * KiB
"""The unit in which changes are tracked, compared by digest and stored."""

REGION = 16 * MiB
"""The upper level of a digest comparison: 1024 blocks."""

BLOCKS_PER_REGION = REGION // BLOCK

MINUTE = 60
HOUR = 3600
DAY = 86400
