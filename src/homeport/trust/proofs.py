"""How a server that knows the join passphrase, and one that asks for it, convince each other over a TLS connection
that neither can trust yet.

    joining                                                    configuration server
       │  TLS 1.3: any certificate. channel = SHA-256 of it           │
       │ ◀──────────────── salt of the passphrase's key ───────────── │
       │ ── request, HMAC(key, "request", channel, request) ────────▶ │  its own certificate's digest = channel?
       │ ◀─ answer (certificate, authority),                          │
       │      HMAC(key, "answer", channel, request's proof, answer) ─ │

Somebody in between has another certificate: then the channels differ, and neither proof fits. What he sees is no use
to him: the key is scrypt of a passphrase with 118 bits.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any

from homeport.domain.errors import HomeportError
from homeport.trust.passphrases import plain

N, R, P = 1 << 15, 8, 1
"""Of scrypt: 32 MiB, about a tenth of a second. The joining server takes nothing less."""
SALT = 16
"""Bytes, at the least."""


class WeakParameters(HomeportError):
    """Somebody wants to guess the passphrase cheaply."""

    code = "join.weak-parameters"
    remedy = "Look who answers at this address: it is not a configuration server as Homeport makes them."


def derive(passphrase: str, salt: bytes) -> bytes:
    """Raises :class:`WeakParameters` where the salt is short."""
    if len(salt) < SALT:
        raise WeakParameters(f"The salt of the join passphrase has {len(salt)} bytes; {SALT} are the least.")
    return hashlib.scrypt(plain(passphrase).encode(), salt=salt, n=N, r=R, p=P, maxmem=64 << 20, dklen=32)


@dataclass(frozen=True)
class Prover:
    """``key``: of :func:`derive`; ``channel``: SHA-256 of the certificate that the configuration server showed."""

    key: bytes
    channel: bytes

    def request(self, body: dict[str, Any]) -> str:
        return self._proof(b"request", _digest(body))

    def answer(self, request_proof: str, body: dict[str, Any]) -> str:
        return self._proof(b"answer", bytes.fromhex(request_proof) + _digest(body))

    def is_request(self, proof: str, body: dict[str, Any]) -> bool:
        return hmac.compare_digest(proof, self.request(body))

    def is_answer(self, proof: str, request_proof: str, body: dict[str, Any]) -> bool:
        return hmac.compare_digest(proof, self.answer(request_proof, body))

    def _proof(self, what: bytes, content: bytes) -> str:
        text = b"homeport join 1\n" + what + b"\n" + self.channel + content
        return hmac.new(self.key, text, hashlib.sha256).hexdigest()


def _digest(body: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).digest()
