"""The help of a command: what it does, an example, and what comes next."""

from __future__ import annotations

EXAMPLE = "Example:"
EXAMPLES = "Examples:"
NEXT = "Next:"


def lesson(what: str, more: str, *examples: str, then: str = "") -> str:
    """Help in Rich's markup. ``what``: one sentence, shown in lists too; ``then``: what usually follows."""
    shown = "\n".join(f"  [cyan]$ {_escape(example)}[/cyan]" for example in examples)
    title = EXAMPLES if len(examples) > 1 else EXAMPLE
    paragraphs = [_escape(what), _escape(_joined(more)), f"[bold]{title}[/bold]\n{shown}"]
    if then:
        paragraphs.append(f"[bold]{NEXT}[/bold] {_escape(_joined(then))}")
    return "\n\n".join(paragraphs)


def _joined(text: str) -> str:
    return " ".join(text.split())


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


# The panels of `homeport --help`, in the order of a recovery.
SET_UP = "Set up"
PROTECT = "Protect"
DRILL = "Drill"
FAIL_OVER = "Fail over"
COME_HOME = "Come home"
LOOK = "Look"
STORE = "Without a vault"
