"""A configuration server looks at its site's machines again and again, and tells the vault what it saw.

What the vault could not be told at once is told when it is back, with how old it is by then: clocks need not agree.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import structlog

from homeport.domain.errors import HomeportError
from homeport.domain.inventory import DISCOVERY_INTERVAL
from homeport.servers.next_url import REPEATABLE

log = structlog.get_logger(__name__)

AGAIN = 5.0
"""Seconds after which the vault is told again that could not be told."""


class Discovery:
    """``look``: the machines that the site sees and its facts ({"machines", "facts"}), or raises; ``interval``: seconds
    between two looks, which may be changed at any time."""

    def __init__(self, site: str, look: Callable[[], dict[str, Any]], interval: float = DISCOVERY_INTERVAL) -> None:
        self.interval = interval
        self._site = site
        self._look = look

    def run(self, vault: httpx.Client, ending: threading.Event) -> None:
        """Until ``ending`` is set. The first look is at once."""
        while not ending.is_set():
            begun = time.monotonic()
            found = self._found()
            while not ending.is_set() and not self._told(vault, found, begun):
                if time.monotonic() - begun > self.interval:
                    break  # it is time for the next look
                ending.wait(AGAIN)
            while not ending.is_set() and (left := begun + self.interval - time.monotonic()) > 0:
                ending.wait(min(left, AGAIN))  # the interval may be another by then

    def _found(self) -> dict[str, Any]:
        try:
            seen = self._look()
        except HomeportError as error:
            log.warning("the site's machines can't be discovered", site=self._site, code=error.code, cause=error.cause)
            return {"error": error.to_json()}
        except Exception as error:
            log.exception("the site's machines can't be discovered", site=self._site)
            cause = f"{type(error).__name__}: {error}"
            remedy = "This is a defect of Homeport: please report it with the log of the site's configuration server."
            return {"error": HomeportError(cause, code="internal", remedy=remedy).to_json()}
        return {"machines": seen["machines"], "facts": seen.get("facts") or {}}

    def _told(self, vault: httpx.Client, found: dict[str, Any], begun: float) -> bool:
        """False: the vault may be told later."""
        body = {**found, "age": time.monotonic() - begun, "interval": self.interval}
        try:
            answer = vault.post(f"/v1/agent/{self._site}/inventory", json=body, extensions=REPEATABLE)
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed
            log.info("inventory not told to the vault", site=self._site, error=str(error))
            return False
        if answer.is_client_error:
            log.warning("the vault refused an inventory", site=self._site, status=answer.status_code)
        return not answer.is_server_error
