"""Recovery points as they lie in this site's own store: timelines begun, ended, thinned and given up."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from homeport.bucket import purging
from homeport.domain.errors import HomeportError
from homeport.domain.points import PointId
from homeport.domain.units import KiB
from homeport.servers import store_probe, vault_backup
from homeport.servers.replication_spec import machine_key_of
from homeport.servers.site_facts import StoreProbe
from homeport.servers.store_care import StoreCare
from homeport.servers.work.kinds import Duty
from homeport.servers.work.site_context import Handler, Params, Progress, Result, SiteContext, optional_point, text_of
from homeport.sites.errors import MachineNotFound
from homeport.store import names
from homeport.store.keys import VaultKey, machine_key, place_header, seal_vault, sealed_header
from homeport.store.objects import versioned
from homeport.store.timeline import MachineStore

_PROBED = 64 * KiB
"""What is read of each disk of a point to see that it can be."""


class StoreWork:
    """The only role that holds the vault's key: it seals the store, and wraps the machines' keys in it."""

    duty = Duty.STORE

    def __init__(self, context: SiteContext) -> None:
        self.name = context.name
        self._context = context
        self._site = context.site
        self._probe = StoreProbe(context.objects, context.objects_url)
        self._care = StoreCare(context.objects, lambda: context.vault, context.folder / "compaction")
        self.kinds: dict[str, Handler] = {
            "prepare-timeline": self._prepare_timeline,
            "keep-key": self._keep_key,
            "end-timeline": self._end_timeline,
            "points": self._points,
            "hide-points": self._hide_points,
            "drop-points": self._drop_points,
            "thin-points": self._thin_points,
            "drop-timeline": self._drop_timeline,
            "forget-timelines": self._forget_timelines,
            "verify-point": self._verify_point,
            "describe": self._describe,
            "purge": self._purge,
            "probe-store": self._probe_store,
            "raise-fence": lambda params, progress: {},
            "store-vault-backup": self._store_vault_backup,
            "list-vault-backups": lambda params, progress: vault_backup.list_backups(self._context.objects),
        }

    def start(self) -> None:
        """Begin to care for the store."""
        self._care.start()

    def stop(self) -> None:
        self._care.stop(timeout=10)

    def facts(self) -> dict[str, Any]:
        return {"store": self._probe.facts()}

    def welcome(self, answer: dict[str, Any]) -> None:
        """The vault's answer to our greeting: its header, sealed by the passphrase, goes beside the data, once."""
        self._context.vault = VaultKey(answer["vault"], bytes.fromhex(answer["vault_key"]))
        if self.sealed_header() is not None:
            return
        if answer.get("sealed"):
            place_header(self._context.objects, answer["sealed"])
        elif answer.get("passphrase"):
            seal_vault(self._context.objects, self._context.vault, answer["passphrase"])
        else:
            raise HomeportError(
                f"the store of {self.name} can't be sealed: the passphrase was confirmed before any site had joined",
                code="site.no-passphrase",
                remedy="Copy the folder vault from another of this vault's stores into this one.",
            )

    def sealed_header(self) -> str | None:
        """The vault's sealed header as it lies in this site's store."""
        return sealed_header(self._context.objects)

    def _keep_key(self, params: Params, progress: Progress) -> Result:
        """The machine's key, wrapped by the vault's, lies beside the data: the bucket and the passphrase are enough."""
        machine_key(self._context.objects, self._context.joined(), params["machine"], create=machine_key_of(params))
        if params.get("description"):
            self._context.store(params).describe(params["description"])
        return {}

    def _prepare_timeline(self, params: Params, progress: Progress) -> Result:
        machine_key(self._context.objects, self._context.joined(), params["machine"], create=machine_key_of(params))
        store = self._context.store(params)
        store.create_timeline(
            params["timeline"], parent=optional_point(params, "parent"), origin=optional_point(params, "origin")
        )
        if params.get("description"):
            store.describe(params["description"])
        return {}

    def _end_timeline(self, params: Params, progress: Progress) -> Result:
        self._context.store(params).end(params["timeline"], params.get("reason", "failover"))
        return self._points(params, progress)

    def _points(self, params: Params, progress: Progress) -> Result:
        store = self._context.store(params)
        points = store.points(params["timeline"])
        return {"points": [point.to_json() for point in points], "head": text_of(store.head(params["timeline"]))}

    def _hide_points(self, params: Params, progress: Progress) -> Result:
        self._context.store(params).hide(params["timeline"], int(params["upto"]))
        return {}

    def _drop_points(self, params: Params, progress: Progress) -> Result:
        """``timelines``: up to which number each loses its points; ``keep``: points that something still needs. The
        newest of each, leased ones and those that others fork from stay in any case: hidden, not dropped."""
        store = self._context.store(params)
        keep = {PointId.parse(point) for point in params["keep"]}
        there = set(store.timeline_ids())
        dropped = 0
        for timeline, upto in params["timelines"].items():
            if timeline not in there:
                continue
            store.hide(timeline, int(upto))
            found = [point.id for point in store.points(timeline, hidden=True)]
            drop = [point.number for point in found if point.number <= int(upto) and point not in keep]
            dropped += len(store.expire(timeline, drop).dropped)
        return {"dropped": dropped}

    def _thin_points(self, params: Params, progress: Progress) -> Result:
        """``timelines``: the numbers that each loses. What is leased or forked from stays; ``left`` tells what is there
        now."""
        store = self._context.store(params)
        left = {}
        for timeline, numbers in params["timelines"].items():
            store.expire(timeline, [int(number) for number in numbers])
            left[timeline] = [point.id.number for point in store.points(timeline)]
        return {"left": left}

    def _drop_timeline(self, params: Params, progress: Progress) -> Result:
        self._context.store(params).purge(params["timeline"])
        return {}

    def _forget_timelines(self, params: Params, progress: Progress) -> Result:
        store = self._context.store(params)
        self._must_be_free(store)
        purge_timelines(store, params["timelines"])
        if not store.timeline_ids():
            store.purge()
        return {}

    def _verify_point(self, params: Params, progress: Progress) -> Result:
        """The point can be opened here, has all disks of ``disks``, and all that it stands on is there."""
        store = self._context.store(params)
        point = PointId.parse(params["point"])
        found = store.verify(point, progress=progress)
        reader = store.open(point)
        wrong = [f"{problem.object}: {problem.cause}" for problem in found.problems]
        wrong += [f"it has no {disk}" for disk in params["disks"] if disk not in reader.disks]
        if wrong:
            raise HomeportError(
                f"recovery point {point} can't be used at {self.name}: {'; '.join(wrong[:5])}",
                code="protect.point-unusable",
                remedy="Compare everything again with `homeport disable ITEM` and a new `homeport protect`; "
                "`homeport store verify --deep` tells more of the store.",
                problems=wrong,
            )
        for disk, size in reader.disks.items():
            reader.read(disk, 0, min(size, _PROBED))
        return {"point": str(point), "disks": dict(reader.disks), "objects": found.objects, "segments": found.segments}

    def _describe(self, params: Params, progress: Progress) -> Result:
        """What a vault is rebuilt from, beside the points; where there are none any more, nothing is left lying."""
        if any(True for _ in self._context.objects.list(names.machine_keys(params["machine"]))):
            self._context.store(params).describe(params["description"])
        return {}

    def _purge(self, params: Params, progress: Progress) -> Result:
        """Delete the points of ``timelines``; where the machine has no others here, all of it, with ``shred`` its key
        first."""
        store = self._context.store(params)
        self._must_be_free(store)
        if set(store.timeline_ids()) - set(params["timelines"]):
            purge_timelines(store, params["timelines"])
            return {"notes": [f"The machine has other recovery points at {self.name}: its key stays there."]}
        shred = bool(params.get("shred"))
        notes = []
        if shred and versioned(self._context.objects) is not False:
            notes.append(f"The store of {self.name} may keep what is deleted: the machine's key could be brought back.")
        purging.purge(self._context.objects, params["machine"], shred=shred, progress=progress)
        return {"notes": notes}

    def _must_be_free(self, store: MachineStore) -> None:
        """A machine that still reads its recovery point would lose its disks with it."""
        for lease in store.leases():
            try:
                origin = self._site.machine(lease.owner).extra.get("origin")
            except MachineNotFound:
                continue
            if origin and not origin["hydrated"]:
                raise HomeportError(
                    f"{lease.owner} at {self.name} still runs on recovery point {lease.point}",
                    code="store.in-use",
                    remedy="They stay until it holds all of its disks itself; then disable it again.",
                )

    def _probe_store(self, params: Params, progress: Progress) -> Result:
        if self._context.vault is None:
            raise HomeportError("this site has not greeted its vault yet", code="site.not-joined")
        return {"free": store_probe.try_out(params["store"], self._context.vault.id)}

    def _store_vault_backup(self, params: Params, progress: Progress) -> Result:
        return vault_backup.store_backup(self._context.objects, self._context.joined(), params)


def purge_timelines(store: MachineStore, timelines: Collection[str]) -> None:
    """Delete those of ``timelines`` that are there, forks before what they fork from. One that another timeline of the
    machine forks from stays."""
    left = [info for info in store.timelines() if info.id in timelines]
    while left:
        needed = {info.parent.timeline for info in store.timelines() if info.parent and info.parent.timeline != info.id}
        free = [info for info in left if info.id not in needed]
        if not free:
            return
        for info in free:
            store.purge(info.id)
        left = [info for info in left if info not in free]
