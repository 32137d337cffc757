"""In which order a site is handed what is asked of it."""

from __future__ import annotations

from fake_sites import World
from vault_process import LocalVault

from homeport.vault import work
from homeport.vault.work import Ask


def test_what_is_asked_after_a_fence_waits_for_it(world: World, vault: LocalVault) -> None:
    world.protected()
    item = world.item()["id"]
    core = vault.vault.core
    world.east.die()
    before = {row["kind"] for row in work.take(core, "east", frozenset())}
    for kind in ("fence", "forget"):
        params = {"vm": "web", "reason": "it runs elsewhere", "power_off": True}
        work.post(core, Ask("east", kind, params, key=f"order:{kind}", item=item))
    (handed,) = [row for row in work.take(core, "east") if row["kind"] in ("fence", "forget")]
    assert handed["kind"] == "fence", before
    assert not [row for row in work.take(core, "east") if row["kind"] == "forget"]
    work.update_work(core, "east", handed["id"], "done", progress=None, result={}, error=None)
    (later,) = [row for row in work.take(core, "east") if row["kind"] == "forget"]
    assert later["params"]["fence"] > handed["params"]["fence"]
