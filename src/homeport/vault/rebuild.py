"""A vault's rows from what lies in the stores: items, points, policies and sites that the vault, or the backup that it
is restored from, does not know, or knows as they were earlier."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from homeport.domain.policy import Policy, failback_policy
from homeport.domain.states import Direction, State
from homeport.vault import items
from homeport.vault.catch_up import CatchUp, params_of
from homeport.vault.database import ItemRow, Json, PolicyRow, SettingRow, SiteRow, WorkRow, now
from homeport.vault.dump import row_from_json
from homeport.vault.found import FoundMachine, FoundStore, FoundTimeline

UNKNOWN = "/homeport-unknown/"
"""Begins the path of a site whose folder nobody could tell: no folder of this name is made by anyone."""


@dataclass
class Rebuilt:
    """``items``: {"id", "name", "state", "points"}; ``checks``: what an operator must look at, in words."""

    items: list[Json] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)


def rebuild(
    session: Session, stores: list[FoundStore], *, sealed: str | None, folders: Mapping[str, str] | None = None
) -> Rebuilt:
    """Adds and corrects rows. ``sealed``: the vault's file, for sites that join later. ``folders``: by site, as an
    operator tells it."""
    return _Rebuilding(session, stores, dict(folders or {})).run(sealed)


def raise_fences(session: Session, vault: str) -> None:
    """From now on sites refuse what an earlier vault asks, once they hear of this one. Fences count on from the time
    of day in milliseconds: beyond whatever any vault has counted to, one that was restored earlier too."""
    least = int(now().timestamp() * 1000)
    for item in session.scalars(select(ItemRow).where(ItemRow.removed.is_(None))):
        item.fence = max(item.fence + 1_000_000, least)
        for site in (item.home, item.away):
            session.add(
                WorkRow(
                    id=uuid.uuid4().hex,
                    key=f"raise-fence:{item.id}:{item.fence}:{site}",
                    site=site,
                    kind="raise-fence",
                    params={
                        "item": item.id,
                        "machine": item.machine,
                        "keys": {"vault": vault, "machine_key": item.machine_key},
                        "fence": item.fence,
                    },
                )
            )


class _Rebuilding:
    def __init__(self, session: Session, stores: list[FoundStore], folders: dict[str, str]) -> None:
        self._session = session
        self._stores = stores
        self._folders = folders
        self._done = Rebuilt()
        self._at: dict[str, FoundStore] = {}
        """By site, which of the stores is its own."""

    def run(self, sealed: str | None) -> Rebuilt:
        if sealed is not None and self._session.get(SettingRow, "sealed") is None:
            self._session.add(SettingRow(name="sealed", value={"text": sealed}))
        machines = sorted({machine for store in self._stores for machine in store.machines})
        for machine in machines:
            self._machine(machine)
        self._session.flush()
        for item in self._session.scalars(select(ItemRow).where(ItemRow.removed.is_(None)).order_by(ItemRow.name)):
            self._correct(item)
        self._done.sites = list(self._session.scalars(select(SiteRow.name).order_by(SiteRow.name)))
        for name, folder in self._folders.items():
            site = self._session.get(SiteRow, name)
            if site is None:
                self._check(f"site {name}: no description names it")
            else:
                site.path = folder
        for site in self._session.scalars(select(SiteRow).where(SiteRow.path.startswith(UNKNOWN))):
            self._check(f"site {site.name}: its folder is not known; run this again with --site {site.name}=FOLDER")
        return self._done

    # -- rows from descriptions ----------------------------------------------------------------------------------------

    def _machine(self, machine: str) -> None:
        there = [(store, store.machines[machine]) for store in self._stores if machine in store.machines]
        described = [(store, each) for store, found in there for each in found.descriptions if _of_item(each)]
        if not described:
            self._check(
                f"machine {machine}: nothing beside its points tells of an item; `homeport store points` has them"
            )
            return
        for store, description in described:
            self._place(machine, store, description)
        _, newest = max(described, key=lambda pair: _age(pair[1]))
        for site in _sites_of(newest):
            self._site(site)
        self._policy(newest["policy"])
        self._session.flush()
        known = self._session.get(ItemRow, newest["item"]["id"])
        if known is None:
            self._new_item(machine, newest, there)
        elif known.removed is None and newest.get("row", {}).get("fence", 0) > known.fence:
            before = (known.state, known.timeline)
            for name, value in _columns(newest["row"]).items():
                setattr(known, name, value)
            if (known.state, known.timeline) != before:
                self._check(f"{known.name}: it was {before[0]} in the backup, and {known.state} after it")

    def _place(self, machine: str, store: FoundStore, description: Json) -> None:
        """Note which site a store is of: as described, else by what lies in it."""
        site = description.get("site")
        if site is None:
            item, found = description["item"], store.machines[machine]
            begun = any(one.parent is None and one.origin is None for one in found.timelines.values())
            site = item["to"] if begun else item["from"]
        self._at.setdefault(str(site), store)

    def _site(self, described: Json) -> None:
        if self._session.get(SiteRow, described["name"]) is not None:
            return
        store = self._at.get(described["name"])
        path = described.get("path") or (store and store.folder) or f"{UNKNOWN}{described['name']}"
        if store is not None and store.folder is not None and store.folder != path:
            self._check(
                f"site {described['name']}: it was at {path}; its store is now in {store.folder}, which is taken"
            )
            path = store.folder
        values = {"provider": "qemu", **described, "path": path}
        self._session.add(SiteRow(**row_from_json(SiteRow.__table__, values)))  # type: ignore[arg-type]

    def _policy(self, described: Json) -> None:
        if self._session.get(PolicyRow, described["name"]) is not None:
            return
        row = row_from_json(PolicyRow.__table__, described)  # type: ignore[arg-type]
        self._session.add(PolicyRow(**row))
        back = failback_policy(Policy(**row)).to_json()
        self._session.add(PolicyRow(**row_from_json(PolicyRow.__table__, back)))  # type: ignore[arg-type]

    def _new_item(self, machine: str, described: Json, there: list[tuple[FoundStore, FoundMachine]]) -> None:
        keys = {found.key for _, found in there}
        if "row" in described:
            item = ItemRow(**_columns(described["row"]), machine_key=keys.pop(), replication={}, crossed={})
        else:
            found = self._first_description(machine, described)
            if found is None:
                return
            item = found
            item.machine_key = keys.pop()
        self._session.add(item)

    def _first_description(self, machine: str, described: Json) -> ItemRow | None:
        """An item of which only its beginning is told: all else follows from the stores."""
        named, policy = described["item"], described["policy"]
        away = self._at.get(named["to"])
        found = away.machines.get(machine) if away else None
        first = _first_timeline(found) if found else None
        if first is None:
            self._check(f"{named['name']}: the store of site {named['to']}, where its points began, is needed too")
            return None
        params = params_of(named["name"], first.id, policy, None)
        return ItemRow(
            id=named["id"],
            name=named["name"],
            machine=machine,
            description=described["machine"],
            home=named["from"],
            away=named["to"],
            policy=policy["name"],
            state=State.PROTECTED if first.grown else State.ENABLE_FAILED,
            direction=Direction.FORWARD,
            active_site=named["from"],
            store_site=named["to"],
            timeline=first.id,
            lineage=[first.id],
            timelines={named["to"]: [first.id]},
            ties={},
            target={},
            replicate={"at": named["from"], "store": named["to"], "params": params},
            replication={},
            crossed={},
            fence=0,
            created=first.created,
        )

    # -- what happened since -------------------------------------------------------------------------------------------

    def _correct(self, item: ItemRow) -> None:
        away, home = self._machine_at(item.away, item), self._machine_at(item.home, item)
        catching = CatchUp(self._session, item, away, home)
        if self._of(item.store_site) is None:
            self._check(
                f"{item.name}: the store of site {item.store_site} was not given, so it is as it was last known"
            )
        else:
            catching.run()
        for site, found in ((item.away, away), (item.home, home)):
            if found is not None:
                told = [one.id for one in found.timelines.values()]
                item.timelines = {**item.timelines, site: list(dict.fromkeys([*item.timelines.get(site, []), *told]))}
                for timeline in item.lineage:
                    if timeline in found.timelines:
                        points = [each.to_json() for each in found.timelines[timeline].points if not each.hidden]
                        items.remember_points(self._session, timeline, points)
        self._session.flush()
        for check in catching.checks:
            self._check(f"{item.name}: {check}")
        self._done.items.append(
            {
                "id": item.id,
                "name": item.name,
                "state": str(item.state),
                "points": len(items.points_of(self._session, item)),
            }
        )

    def _of(self, site: str) -> FoundStore | None:
        """The site's store, if it was given: as descriptions tell, else by its folder."""
        if site in self._at:
            return self._at[site]
        row = self._session.get(SiteRow, site)
        return next((store for store in self._stores if row is not None and store.folder == row.path), None)

    def _machine_at(self, site: str, item: ItemRow) -> FoundMachine | None:
        store = self._of(site)
        return store.machines.get(item.machine) if store is not None else None

    def _check(self, text: str) -> None:
        if text not in self._done.checks:
            self._done.checks.append(text)


def _of_item(description: Json) -> bool:
    return isinstance(description.get("item"), dict) and isinstance(description.get("policy"), dict)


def _age(description: Json) -> tuple[bool, str, int]:
    """Those with a row first, then the later item, then the later one of these."""
    row: Json = description.get("row") or {}
    return bool(row), str(row.get("created", "")), int(row.get("fence", 0))


def _sites_of(description: Json) -> Iterator[Json]:
    described = {site["name"]: site for site in description.get("sites", [])}
    for name in (description["item"]["from"], description["item"]["to"]):
        yield described.get(name, {"name": name})


def _columns(row: Json) -> dict[str, Any]:
    return row_from_json(ItemRow.__table__, row)  # type: ignore[arg-type]


def _first_timeline(found: FoundMachine) -> FoundTimeline | None:
    begun = [one for one in found.timelines.values() if one.parent is None and one.origin is None]
    return min(begun, key=lambda one: one.created, default=None)
