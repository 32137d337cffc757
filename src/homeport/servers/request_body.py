"""How long a request's body is, as far as its caller may say so: looked at before a byte of it is read."""

from __future__ import annotations

from email.message import Message
from http import HTTPStatus


class LengthRefused(Exception):
    """``status``: what is answered; nothing of the body was read, so the connection ends with that."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


def body_length(headers: Message, most: int, *, required: bool = False) -> int:
    """Bytes. Raises LengthRefused: 411 where the length is not told before (chunked; absent, where it is ``required``),
    400 where it is no number, 413 above ``most`` bytes."""
    told = {value.strip() for value in headers.get_all("Content-Length", [])}
    if "Transfer-Encoding" in headers or (required and not told):
        raise LengthRefused(HTTPStatus.LENGTH_REQUIRED)
    text = told.pop() if told else "0"
    if told or not (text.isascii() and text.isdigit()):  # int() takes signs, blanks and underscores besides
        raise LengthRefused(HTTPStatus.BAD_REQUEST)
    if len(text.lstrip("0")) > len(str(most)) or int(text) > most:
        raise LengthRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return int(text)
