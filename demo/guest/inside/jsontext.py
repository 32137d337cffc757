"""JSON, as far as the guest's answers need it: Debian's python3-minimal has no ``json``."""

from __future__ import annotations


def to_json(value: object) -> str:
    """JSON text of None, bool, int, float, str and dicts with str keys. Raises TypeError for anything else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return '"' + "".join(_escape(character) for character in value) + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_json(str(key))}: {to_json(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"no JSON for {type(value).__name__}")


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character >= " " else f"\\u{ord(character):04x}"
