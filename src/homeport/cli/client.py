"""The vault's REST API for the command line: where it is, how to ask, what its refusals mean."""

from __future__ import annotations

import json
import os
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

from homeport.cli.api import (
    DeletedItem,
    Event,
    Findings,
    Group,
    Item,
    Job,
    Limits,
    Machine,
    MachineList,
    Point,
    Policy,
    Refreshed,
    Site,
    VaultInfo,
)
from homeport.cli.errors import (
    AuthorityUnreadable,
    BadAnswer,
    TokenUnreadable,
    VaultFailing,
    VaultNotRunning,
    VaultRefused,
)
from homeport.cli.speech import language

ANSWER_WITHIN = 60.0
"""Seconds the vault may take for an answer, beyond the time it was asked to wait: it may ask a site first."""

PROBE_WITHIN = 120.0
"""Seconds more for trying a store out."""

CONNECT_WITHIN = 10.0
"""Seconds."""

LOST_FOR = 20.0
"""Seconds for which a request whose answer was lost is asked again."""

AGAIN_AFTER = 0.5
"""Seconds between two such tries."""

SILENT_FOR = 45.0
"""Seconds without a word (a heartbeat comes every 15) after which events are no longer waited for."""

PAGE = 200
"""Entries asked for at once."""

_ANSWER_LOST = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


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

    def __init__(self, url: str, token: str, *, found_in: Path | None = None, authority: Path | None = None) -> None:
        """``found_in``: the state folder that named the vault; then it is on this machine and no proxy is asked.
        ``authority``: file with the vault's own authority, for an https:// address; without, the address must be
        vouched for by an authority that this machine trusts. Raises AuthorityUnreadable."""
        self.url = url
        self._found_in = found_in
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}", "Accept-Language": language()},
            trust_env=found_in is None,
            verify=_only(authority) if authority is not None and url.startswith("https:") else True,
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
        return cls(url, token, found_in=folder, authority=folder / "authority.pem")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        wait: float = 0,
        headers: Mapping[str, str] | None = None,
        more: float = 0,
        **query: Any,
    ) -> dict[str, Any]:
        """``wait``: seconds that the vault is asked to wait for news; ``more``: that this answer may take beyond
        others'."""
        asked = {name: _in_query(value) for name, value in query.items() if value is not None}
        if wait:
            asked["wait"] = str(wait)
        headers = dict(headers or {})
        if method == "POST":
            headers["Idempotency-Key"] = uuid.uuid4().hex
        deadline: float | None = None
        while True:
            try:
                answer = self._http.request(
                    method,
                    path,
                    json=body,
                    params=asked,
                    headers=headers,
                    timeout=httpx.Timeout(ANSWER_WITHIN + wait + more, connect=CONNECT_WITHIN),
                )
                if deadline is not None and time.monotonic() < deadline and _in_progress(answer):
                    time.sleep(AGAIN_AFTER)
                    continue
                return _read(answer, self.url)
            except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                # A POST may have had its effect though no answer came: asked again under its key, it has it once.
                lost = method == "POST" and (deadline is not None or isinstance(error, _ANSWER_LOST))
                if deadline is None:
                    deadline = time.monotonic() + LOST_FOR
                if not lost or time.monotonic() > deadline:
                    _not_trusted(error)
                    raise VaultNotRunning(
                        f"the vault at {self.url} doesn't answer ({error or type(error).__name__})", url=self.url
                    ) from error
                time.sleep(AGAIN_AFTER)

    def _pages(self, path: str, of: str, *, limit: int | None = None, **query: Any) -> Iterator[dict[str, Any]]:
        """The entries of a list, page after page; ``limit``: at most so many in all."""
        left, after = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            answer = self._get(path, limit=size, after=after, **query)
            yield from answer[of]
            after = answer.get("next")
            if after is None:
                return
            left = None if left is None else left - len(answer[of])

    def _get(self, path: str, *, wait: float = 0, **query: Any) -> dict[str, Any]:
        return self._ask("GET", path, wait=wait, **query)

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._ask("POST", path, body=body or {})

    # -- the vault, its sites and policies ---------------------------------------------------------------------------

    def vault(self) -> VaultInfo:
        return cast(VaultInfo, self._get("/v1/vault"))

    def confirm_passphrase(self, passphrase: str) -> dict[str, Any]:
        return self._post("/v1/vault/passphrase/confirm", {"passphrase": passphrase})

    def back_up(self, sites: list[str] | None, keep: int | None) -> dict[str, Any]:
        """A backup of the vault to its sites' stores (None: all): what came of it, per site."""
        return self._post("/v1/vault/backups", {"sites": sites, "keep": keep})

    def backups(self) -> dict[str, Any]:
        return self._get("/v1/vault/backups")

    def authority(self) -> dict[str, Any]:
        return self._get("/v1/authority")

    def make_key(self, site: str, urls: list[str], *, replace: bool) -> dict[str, Any]:
        """A registration key, its text under ``key``."""
        return self._post("/v1/registration-keys", {"site": site, "urls": urls, "replace": replace})

    def servers(self) -> dict[str, Any]:
        return self._get("/v1/servers")

    def server(self, name: str) -> dict[str, Any]:
        return self._get(f"/v1/servers/{_part(name)}")

    def revoke_server(self, name: str, serial: str | None) -> dict[str, Any]:
        return dict(self._post(f"/v1/servers/{_part(name)}/revoke", {"serial": serial})["server"])

    def remove_server(self, name: str, *, force: bool) -> dict[str, Any]:
        """{"removed": servers, "left": what is left behind, in words}"""
        return self._ask("DELETE", f"/v1/servers/{_part(name)}", force=force)

    def configuration_backups(self, server: str | None) -> dict[str, Any]:
        """{"backups", "schedules", "keep"}"""
        return self._get("/v1/configuration-backups", server=server)

    def sites(self) -> list[Site]:
        return list(self._get("/v1/sites")["sites"])

    def add_site(self, name: str, provider: str, path: str) -> Site:
        answer = self._post("/v1/sites", {"name": name, "provider": provider, "path": path})
        site: Site = answer.get("site", answer)
        return site

    def site(self, site: str) -> Site:
        return cast(Site, self._get(f"/v1/sites/{_part(site)}"))

    def set_site(self, site: str, store: str | None) -> Site:
        """The store is probed by the site first, which may take a while."""
        return cast(Site, self._ask("PATCH", f"/v1/sites/{_part(site)}", body={"store": store}, more=PROBE_WITHIN))

    def remove_site(self, site: str, *, force: bool) -> Site:
        return cast(Site, self._ask("DELETE", f"/v1/sites/{_part(site)}", force=force))

    def refresh_site(self, site: str) -> Refreshed:
        return cast(Refreshed, self._post(f"/v1/sites/{_part(site)}/refresh"))

    def machines(self, site: str, *, refresh: bool = True) -> MachineList:
        return cast(MachineList, self._get(f"/v1/sites/{_part(site)}/machines", refresh=refresh))

    def start_machine(self, site: str, machine: str) -> Machine:
        answer = self._post(f"/v1/sites/{_part(site)}/machines/{_part(machine)}/start", {})
        return cast(Machine, answer["machine"])

    def policies(self) -> list[Policy]:
        return list(self._get("/v1/policies")["policies"])

    def create_policy(self, policy: Policy) -> Policy:
        answer = self._post("/v1/policies", policy)
        created: Policy = answer.get("policy", answer)
        return created

    def policy(self, name: str) -> Policy:
        return cast(Policy, self._get(f"/v1/policies/{_part(name)}"))

    def change_policy(self, name: str, changes: Policy) -> Policy:
        return cast(Policy, self._ask("PATCH", f"/v1/policies/{_part(name)}", body=changes))

    def remove_policy(self, name: str) -> Policy:
        return cast(Policy, self._ask("DELETE", f"/v1/policies/{_part(name)}"))

    def profile(self) -> str:
        return str(self._get("/v1/profile")["profile"])

    def set_profile(self, profile: str) -> str:
        return str(self._ask("PUT", "/v1/profile", body={"profile": profile})["profile"])

    # -- replicated items --------------------------------------------------------------------------------------------

    def items(self) -> list[Item]:
        return list(self._get("/v1/items")["items"])

    def item(self, item: str) -> Item:
        answer = self._get(f"/v1/items/{_part(item)}")
        return cast(Item, answer["item"] if isinstance(answer.get("item"), dict) else answer)

    def protect(
        self, machine: str, source: str, target: str, policy: str, properties: Mapping[str, Any] | None = None
    ) -> str:
        """``properties``: of the machine where it is recovered. Returns the id of the job."""
        named = {"machine": machine, "from": source, "to": target, "policy": policy}
        return _job_id(self._post("/v1/items", {**named, **(properties or {})}))

    def switch_process_server(self, item: str, name: str) -> dict[str, Any]:
        """{"process_server", "before"}"""
        path = f"/v1/items/{_part(item)}/process-server"
        return self._ask("PUT", path, body={"name": name}, more=PROBE_WITHIN)

    def suggestions(self, site: str | None) -> list[dict[str, Any]]:
        return list(self._get("/v1/process-servers/suggestions", site=site)["suggestions"])

    def throttle(self, name: str) -> dict[str, Any]:
        return self._get(f"/v1/process-servers/{_part(name)}/throttle")

    def set_throttle(self, name: str, limit: str, schedule: list[str], time_zone: str | None) -> dict[str, Any]:
        body = {"limit": limit, "schedule": schedule, "time_zone": time_zone}
        return self._ask("PUT", f"/v1/process-servers/{_part(name)}/throttle", body=body)

    def end_throttle(self, name: str) -> dict[str, Any]:
        return self._ask("DELETE", f"/v1/process-servers/{_part(name)}/throttle")

    def change_item(self, item: str, changes: Mapping[str, Any]) -> Item:
        """``changes``: properties and policy; None: as at the machine's own site."""
        return cast(Item, self._ask("PATCH", f"/v1/items/{_part(item)}", body=changes))

    def deleted_items(self) -> list[DeletedItem]:
        return list(self._get("/v1/items/deleted")["items"])

    def purge_deleted(self, item: str) -> DeletedItem:
        return cast(DeletedItem, self._post(f"/v1/items/deleted/{_part(item)}/purge")["item"])

    def restore_deleted(self, item: str) -> str:
        """Returns the id of the job."""
        return _job_id(self._post(f"/v1/items/deleted/{_part(item)}/restore"))

    def points(self, item: str, *, tagged: bool = False) -> list[Point]:
        """Those that are offered; ``tagged``: those that have a tag, offered or not."""
        return list(self._get(f"/v1/items/{_part(item)}/points", tagged="true" if tagged else None)["points"])

    def untag(self, item: str, timeline: str, number: str) -> Item:
        return cast(Item, self._post(f"/v1/items/{_part(item)}/points/{_part(timeline)}/{_part(number)}/untag"))

    def groups(self) -> list[Group]:
        return list(self._get("/v1/groups")["groups"])

    def group(self, name: str) -> Group:
        return cast(Group, self._get(f"/v1/groups/{_part(name)}"))

    def change_group(self, name: str, changes: Mapping[str, Any]) -> Group:
        return cast(Group, self._ask("PATCH", f"/v1/groups/{_part(name)}", body=changes))

    def operate_group(self, name: str, operation: str, inputs: Mapping[str, Any]) -> list[Job]:
        """Begin an operation on all members; returns their jobs."""
        return list(self._post(f"/v1/groups/{_part(name)}/operations/{_part(operation)}", inputs)["jobs"])

    def checks(self, item: str) -> Findings:
        """What the last look of the checks found."""
        return cast(Findings, self._get(f"/v1/items/{_part(item)}/checks"))

    def run_checks(self, item: str, *, before: str | None = None) -> Findings:
        """A look now, with fresh facts; ``before``: as before that operation."""
        return cast(Findings, self._ask("POST", f"/v1/items/{_part(item)}/checks", before=before))

    def operate(self, item: str, operation: str, inputs: Mapping[str, Any]) -> str:
        """Begin an operation; returns the id of its job."""
        return _job_id(self._post(f"/v1/items/{_part(item)}/operations/{_part(operation)}", inputs))

    # -- jobs --------------------------------------------------------------------------------------------------------

    def jobs(
        self,
        *,
        item: str | None = None,
        states: Sequence[str] = (),
        kinds: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """The newest first; ``since``, ``until``: when they were created. Without ``limit``, all."""
        found = self._pages(
            "/v1/jobs",
            "jobs",
            limit=limit,
            item=item,
            state=list(states) or None,
            kind=list(kinds) or None,
            since=since.isoformat() if since else None,
            until=until.isoformat() if until else None,
        )
        return [cast(Job, job) for job in found]

    def job(self, job: str, *, wait: float = 0, version: int | None = None) -> Job:
        """``wait``: seconds to wait for a version above ``version`` or the job's end."""
        return _job(self._get(f"/v1/jobs/{_part(job)}", wait=wait, version=version))

    def cancel_job(self, job: str) -> str:
        return _job_id(self._post(f"/v1/jobs/{_part(job)}/cancel"), default=job)

    def resume_job(self, job: str, comment: str) -> str:
        """What the job waits for is done."""
        return _job_id(self._post(f"/v1/jobs/{_part(job)}/resume", {"comment": comment}), default=job)

    def job_limits(self) -> Limits:
        return cast(Limits, self._get("/v1/jobs/limits"))

    def set_job_limits(self, limits: Limits) -> Limits:
        return cast(Limits, self._ask("PUT", "/v1/jobs/limits", body=limits))

    def events(self, *, kind: str | None = None, item: str | None = None, after: str | None = None) -> Iterator[Event]:
        """Jobs and items as they change, until the connection ends; ``after``: the id of the last event seen.

        Raises VaultNotRunning when the connection breaks, and what every method raises.
        """
        query = {name: value for name, value in (("kind", kind), ("item", item)) if value is not None}
        headers = {} if after is None else {"Last-Event-ID": after}
        limits = httpx.Timeout(SILENT_FOR, connect=CONNECT_WITHIN)
        try:
            with self._http.stream("GET", "/v1/events", params=query, headers=headers, timeout=limits) as answer:
                if not answer.is_success:
                    answer.read()
                    _read(answer, self.url)
                yield from _events(answer.iter_lines())
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise VaultNotRunning(
                f"the vault at {self.url} doesn't answer ({error or type(error).__name__})", url=self.url
            ) from error

    def restart_job(self, job: str) -> str:
        """Returns the id of the job that runs now."""
        return _job_id(self._post(f"/v1/jobs/{_part(job)}/restart"), default=job)


def _only(authority: Path) -> ssl.SSLContext:
    """TLS that believes this authority alone, and what it calls a vault."""
    from homeport.domain.servers import Role
    from homeport.trust import tls
    from homeport.trust.certificates import from_pem

    try:
        pem = authority.read_text()
        vault = from_pem(pem)
    except (OSError, UnicodeDecodeError) as error:
        raise AuthorityUnreadable(f"the authority's file {authority} can't be read: {error}") from error
    named = vault.subject.rfc4514_string().rpartition(" ")[2]

    def checked(connection: ssl.SSLSocket | ssl.SSLObject) -> None:
        tls.check(tls.peer(connection), vault=named, roles={Role.VAULT})

    return tls.client_context(pem, checked=checked)


def _not_trusted(error: Exception) -> None:
    """Raises what a refused certificate means."""
    from homeport.trust.tls import reason

    found = reason(error)
    if found is not None:
        raise found from error


def _part(text: str) -> str:
    return quote(text, safe="")


def _in_query(value: Any) -> str | list[str]:
    if isinstance(value, list):
        return [str(each) for each in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _in_progress(answer: httpx.Response) -> bool:
    """Whether the vault is still at the request that is asked again."""
    if answer.status_code != httpx.codes.CONFLICT:
        return False
    try:
        return bool(answer.json().get("code") == "request.in-progress")
    except (ValueError, AttributeError):
        return False


def _events(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif not line and "event" in fields:
            shown = json.loads(fields.get("data") or "{}")
            yield {"id": fields.get("id", ""), "kind": fields["event"], "shown": shown}
            fields = {}


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
