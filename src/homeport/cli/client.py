"""The vault's REST API for the command line: where it is, how to ask, what its refusals mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

from homeport.cli.api import Item, Job, Machine, Point, Policy, Site, VaultInfo
from homeport.cli.errors import BadAnswer, TokenUnreadable, VaultFailing, VaultNotRunning, VaultRefused

ANSWER_WITHIN = 60.0
"""Seconds the vault may take for an answer, beyond the time it was asked to wait: it may ask a site first."""

CONNECT_WITHIN = 10.0
"""Seconds."""


def find_state(state: Path | None) -> Path:
    """The state folder: as given, else HOMEPORT_STATE, else where `homeport up` keeps it for this user."""
    if state is not None:
        return state
    if configured := os.environ.get("HOMEPORT_STATE"):
        return Path(configured)
    if os.geteuid() == 0:
        return Path("/var/lib/homeport")
    return Path.home() / ".local/share/homeport"


class VaultClient:
    """One vault. Every method raises VaultNotRunning, VaultRefused (with the vault's own code) or BadAnswer."""

    def __init__(self, url: str, token: str, *, found_in: Path | None = None) -> None:
        """``found_in``: the state folder that named the vault; then it is on this machine and no proxy is asked."""
        self.url = url
        self._found_in = found_in
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            trust_env=found_in is None,
        )

    @classmethod
    def of_state(cls, state: Path | None) -> VaultClient:
        """The vault of a state folder. Raises VaultNotRunning where no vault left its address, TokenUnreadable."""
        folder = find_state(state)
        try:
            url = (folder / "endpoint").read_text().strip()
            token = (folder / "token").read_text().strip()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise VaultNotRunning(
                f"no vault is running with the state folder {folder} ({error.filename} doesn't exist)",
                state=str(folder),
            ) from error
        except PermissionError as error:
            raise TokenUnreadable(f"{error.filename} belongs to another user", state=str(folder)) from error
        return cls(url, token, found_in=folder)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, wait: float = 0, **query: Any
    ) -> dict[str, Any]:
        asked = {name: _in_query(value) for name, value in query.items() if value is not None}
        if wait:
            asked["wait"] = str(wait)
        try:
            answer = self._http.request(
                method,
                path,
                json=body,
                params=asked,
                timeout=httpx.Timeout(ANSWER_WITHIN + wait, connect=CONNECT_WITHIN),
            )
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise VaultNotRunning(
                f"the vault at {self.url} doesn't answer ({error or type(error).__name__})", url=self.url
            ) from error
        return _read(answer, self.url)

    def _get(self, path: str, *, wait: float = 0, **query: Any) -> dict[str, Any]:
        return self._ask("GET", path, wait=wait, **query)

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._ask("POST", path, body=body or {})

    # -- the vault, its sites and policies ---------------------------------------------------------------------------

    def vault(self) -> VaultInfo:
        return cast(VaultInfo, self._get("/v1/vault"))

    def confirm_passphrase(self, passphrase: str) -> dict[str, Any]:
        return self._post("/v1/vault/passphrase/confirm", {"passphrase": passphrase})

    def sites(self) -> list[Site]:
        return list(self._get("/v1/sites")["sites"])

    def add_site(self, name: str, provider: str, path: str) -> Site:
        answer = self._post("/v1/sites", {"name": name, "provider": provider, "path": path})
        site: Site = answer.get("site", answer)
        return site

    def machines(self, site: str, *, refresh: bool = True) -> list[Machine]:
        return list(self._get(f"/v1/sites/{_part(site)}/machines", refresh=refresh)["machines"])

    def start_machine(self, site: str, machine: str) -> Machine:
        answer = self._post(f"/v1/sites/{_part(site)}/machines/{_part(machine)}/start", {})
        return cast(Machine, answer["machine"])

    def policies(self) -> list[Policy]:
        return list(self._get("/v1/policies")["policies"])

    def create_policy(self, policy: Policy) -> Policy:
        answer = self._post("/v1/policies", policy)
        created: Policy = answer.get("policy", answer)
        return created

    # -- replicated items --------------------------------------------------------------------------------------------

    def items(self) -> list[Item]:
        return list(self._get("/v1/items")["items"])

    def item(self, item: str) -> Item:
        answer = self._get(f"/v1/items/{_part(item)}")
        return cast(Item, answer["item"] if isinstance(answer.get("item"), dict) else answer)

    def protect(self, machine: str, source: str, target: str, policy: str) -> str:
        """Returns the id of the job."""
        return _job_id(self._post("/v1/items", {"machine": machine, "from": source, "to": target, "policy": policy}))

    def points(self, item: str) -> list[Point]:
        return list(self._get(f"/v1/items/{_part(item)}/points")["points"])

    def operate(self, item: str, operation: str, inputs: Mapping[str, Any]) -> str:
        """Begin an operation; returns the id of its job."""
        return _job_id(self._post(f"/v1/items/{_part(item)}/operations/{_part(operation)}", inputs))

    # -- jobs --------------------------------------------------------------------------------------------------------

    def jobs(self, *, item: str | None = None, state: str | None = None) -> list[Job]:
        return list(self._get("/v1/jobs", item=item, state=state)["jobs"])

    def job(self, job: str, *, wait: float = 0, version: int | None = None) -> Job:
        """``wait``: seconds to wait for a version above ``version`` or the job's end."""
        return _job(self._get(f"/v1/jobs/{_part(job)}", wait=wait, version=version))

    def cancel_job(self, job: str) -> str:
        return _job_id(self._post(f"/v1/jobs/{_part(job)}/cancel"), default=job)

    def restart_job(self, job: str) -> str:
        """Returns the id of the job that runs now."""
        return _job_id(self._post(f"/v1/jobs/{_part(job)}/restart"), default=job)


def _part(text: str) -> str:
    return quote(text, safe="")


def _in_query(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _job(answer: dict[str, Any]) -> Job:
    inner = answer.get("job")
    return cast(Job, inner if isinstance(inner, dict) else answer)


def _job_id(answer: dict[str, Any], default: str | None = None) -> str:
    """The vault answers with the job's id or with the whole job."""
    named = answer.get("job", answer.get("id", default))
    found = named.get("id") if isinstance(named, dict) else named
    if not isinstance(found, str):
        raise BadAnswer("the vault accepted the operation but named no job", answer=answer)
    return found


def _read(answer: httpx.Response, url: str) -> dict[str, Any]:
    strange = VaultFailing if answer.is_server_error else BadAnswer
    try:
        content = answer.json() if answer.content else {}
    except ValueError as error:
        raise strange(
            f"{url} answered with {answer.status_code} {answer.reason_phrase} and no JSON", url=url
        ) from error
    if not isinstance(content, dict):
        raise BadAnswer(f"{url} answered with something else than a JSON object", url=url)
    if answer.is_success:
        return content
    if "code" not in content:
        reason = content.get("detail", content)
        raise strange(f"the vault refused with {answer.status_code} {answer.reason_phrase}: {reason}", url=url)
    refused = VaultRefused(
        content.get("cause") or content.get("title") or "the vault refused",
        code=str(content["code"]),
        remedy=content.get("remedy") or "",
    )
    refused.status = answer.status_code
    refused.details = content.get("details") or {}
    raise refused
