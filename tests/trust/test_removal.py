"""Who is needed still is not removed; and whoever is removed by force leaves behind what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homeport.domain.errors import HomeportError
from homeport.domain.servers import Role
from homeport.domain.states import Direction, State
from homeport.servers.relay import Relay
from homeport.servers.work.kinds import Duty
from homeport.vault import removal, servers
from homeport.vault.database import ItemRow, JobRow, PolicyRow, SiteRow
from tests.trust.world import Site, TlsVault

Json = dict[str, Any]
OUT = {"at": "home", "store": "away", "params": {}}
"""What an item replicates from home."""
BACK = {"at": "away", "store": "home", "params": {}}


@pytest.fixture
def site(home: Site, tmp_path: Path) -> Site:
    """Home, with a process server and a master target."""
    home.join(tmp_path / "ps-1")
    home.join(tmp_path / "mt-1", Role.MASTER_TARGET, name="mt-1")
    return home


def item(vault: TlsVault, name: str = "web", **more: Any) -> None:
    """From home to away."""
    given: Json = {"state": State.PROTECTED, "direction": Direction.FORWARD, "replicate": OUT, **more}
    with vault.core.database.write() as session:
        session.merge(
            PolicyRow(name="gold", rpo_threshold=900, retention=86400, app_consistent=0, interval=5, generated=False)
        )
        session.flush()
        session.merge(
            ItemRow(
                id=f"id-{name}", name=name, machine="m1", description={}, machine_key="11" * 32, home="home",
                away="away", policy="gold", active_site="home", store_site="away", timeline="1" * 16,
                lineage=["1" * 16], **given,
            )
        )  # fmt: skip


def replicated_by(name: str) -> Json:
    return {"replication": {"phase": "replicating", "process_server": name}}


def refused(vault: TlsVault, name: str) -> HomeportError:
    with pytest.raises(HomeportError) as error:
        removal.remove(vault.core, name)
    assert name in {each["name"] for each in vault.servers()}, "nothing has changed"
    return error.value


def test_a_process_server_that_replicates_items_stays(site: Site, tmp_path: Path) -> None:
    vault = site.vault
    site.join(tmp_path / "ps-2", name="ps-2")
    item(vault, "web", **replicated_by("ps-1"))
    item(vault, "db", **replicated_by("ps-2"))
    found = refused(vault, "ps-1")
    assert (found.code, found.details["items"]) == ("process-server.in-use", ["web"])
    assert "process-server switch" in found.remedy
    answer = vault.operator.delete("/v1/servers/ps-1")
    assert (answer.status_code, answer.json()["code"]) == (409, "process-server.in-use")
    item(vault, "web", **replicated_by("ps-2"))
    assert [each["name"] for each in removal.remove(vault.core, "ps-1")["removed"]] == ["ps-1"]


def test_what_was_not_reported_yet_is_told_by_the_configuration_server(site: Site, tmp_path: Path) -> None:
    vault = site.vault
    item(vault)
    assert refused(vault, "ps-1").code == "process-server.in-use", "it is the only one: who else?"
    site.join(tmp_path / "ps-2", name="ps-2")
    relay = Relay(tmp_path / "relay")
    (tmp_path / "relay").mkdir()
    relay.hello("ps-2", Duty.PROCESS_SERVER, {"executor": "1"})
    relay._assign({"id-web": "ps-2"})
    with vault.core.database.write() as session:
        session.get_one(SiteRow, "home").facts = relay.facts()
    assert refused(vault, "ps-2").details["items"] == ["web"]
    assert removal.remove(vault.core, "ps-1")["removed"]


def test_items_that_are_paused_or_replicate_elsewhere_keep_no_process_server(site: Site) -> None:
    item(site.vault, "web", state=State.PAUSED, replicate=None, **{"replication": {"process_server": "ps-1"}})
    item(site.vault, "db", **{**replicated_by("ps-1"), "replicate": {**BACK, "store": "third"}})
    assert removal.remove(site.vault.core, "ps-1")["removed"]


def test_the_only_door_to_a_sites_store_stays(site: Site, tmp_path: Path) -> None:
    vault = site.vault
    item(vault, state=State.REVERSE_PROTECTED, direction=Direction.REVERSE, replicate=BACK)
    found = refused(vault, "ps-1")
    assert (found.code, found.details["items"]) == ("process-server.only-one", ["web"])
    site.join(tmp_path / "ps-2", name="ps-2")
    servers.revoke(vault.core, "ps-2")
    assert refused(vault, "ps-1").code == "process-server.only-one", "one that is revoked is no other"
    assert removal.remove(vault.core, "ps-2")["removed"]
    site.join(tmp_path / "ps-3", name="ps-3")
    assert removal.remove(vault.core, "ps-1")["removed"]


@pytest.mark.parametrize(
    "state",
    [State.REVERSE_PROTECTED, State.PAUSED, State.RESYNCING, State.FAILBACK_IN_PROGRESS, State.FAILBACK_COMMIT_PENDING],
)
def test_a_master_target_by_which_items_come_home_stays(site: Site, state: State) -> None:
    item(site.vault, state=state, direction=Direction.REVERSE, replicate=BACK)
    found = refused(site.vault, "mt-1")
    assert (found.code, found.details["items"]) == ("master-target.in-use", ["web"])
    assert "failback" in found.remedy


def test_a_master_target_at_work_on_a_reprotect_stays_until_it_is_done(site: Site) -> None:
    vault = site.vault
    item(vault, state=State.REPROTECT_IN_PROGRESS, replicate=None, job="j1")
    with vault.core.database.write() as session:
        session.add(
            JobRow(id="j1", kind="reprotect", item="id-web", item_name="web", params={}, state="running",
                   before=State.FAILOVER_COMMITTED, direction=Direction.FORWARD)
        )  # fmt: skip
    assert refused(vault, "mt-1").code == "master-target.in-use"
    item(vault, state=State.PROTECTED, job=None)
    assert removal.remove(vault.core, "mt-1")["removed"]


def test_beside_another_a_master_target_goes_unless_it_keeps_what_was_overwritten(site: Site, tmp_path: Path) -> None:
    vault = site.vault
    site.join(tmp_path / "mt-2", Role.MASTER_TARGET, name="mt-2")
    item(vault, state=State.FAILBACK_FAILED, direction=Direction.REVERSE, replicate=None)
    assert refused(vault, "mt-1").code == "master-target.in-use"
    item(vault, state=State.REVERSE_PROTECTED, direction=Direction.REVERSE, replicate=BACK)
    assert removal.remove(vault.core, "mt-1")["removed"]


def test_a_configuration_server_goes_after_its_servers_and_items(site: Site) -> None:
    vault = site.vault
    found = refused(vault, "cs-home")
    assert (found.code, found.details["servers"]) == ("server.has-dependents", ["mt-1", "ps-1"])
    for name in ("ps-1", "mt-1"):
        removal.remove(vault.core, name)
    item(vault)
    found = refused(vault, "cs-home")
    assert (found.code, found.details["items"]) == ("server.in-use", ["web"])
    assert "--replace" in found.remedy


def test_force_says_what_is_left_behind(site: Site, tmp_path: Path) -> None:
    vault = site.vault
    site.join(tmp_path / "ps-2", name="ps-2")
    item(vault, "web", **replicated_by("ps-1"))
    item(vault, "db", state=State.FAILBACK_FAILED, direction=Direction.REVERSE, replicate=None)
    found = vault.operator.delete("/v1/servers/ps-1", params={"force": True}).json()
    assert [each["name"] for each in found["removed"]] == ["ps-1"]
    assert any("web are replicated by ps-2" in text for text in found["left"])
    item(vault, "web", **replicated_by("ps-2"))
    found = removal.remove(vault.core, "cs-home", force=True)
    assert [each["name"] for each in found["removed"]] == ["mt-1", "ps-2", "cs-home"]
    told = "\n".join(found["left"])
    assert "Nothing replicates web until another process server of site home joins." in told
    assert "retention drive of mt-1" in told
    assert "Nothing can be done at site home for db, web" in told
    for name in ("mt-1", "ps-2", "cs-home"):
        assert f"On the machine of {name} its state folder stays" in told


def test_the_instance_that_is_asked_does_not_remove_itself(vault: TlsVault) -> None:
    with pytest.raises(HomeportError) as error:
        removal.remove(vault.core, "vault-1", force=True)
    assert error.value.code == "server.this-vault"


def test_a_site_whose_servers_are_gone_is_removed_with_them_but_not_from_under_items(site: Site) -> None:
    vault, operator = site.vault, site.vault.operator
    item(vault)
    assert operator.delete("/v1/sites/home", params={"force": True}).json()["code"] == "site.in-use"
    with vault.core.database.write() as session:
        session.delete(session.get_one(ItemRow, "id-web"))
    assert operator.delete("/v1/sites/home").json()["code"] == "site.has-servers"
    removed = operator.delete("/v1/sites/home", params={"force": True}).json()
    assert any("machine of cs-home" in text for text in removed["left"])
    assert "Site home's folder and machines stay as they are: /home." in removed["left"]
    assert [each["name"] for each in vault.servers()] == ["vault-1"]
    assert site.client.get("/v1/agent/home/self").status_code in (403, 404)


def test_the_configuration_server_hears_who_is_removed_or_revoked_and_which_items_there_are(
    site: Site, tmp_path: Path
) -> None:
    vault = site.vault
    item(vault, "web", group_name="shop")
    site.join(tmp_path / "ps-2", name="ps-2")

    def greeting() -> Json:
        found: Json = site.client.post("/v1/agent/home/hello", json={"executor": "1"}).json()
        return {name: found[name] for name in ("gone", "items")}

    assert greeting() == {"gone": [], "items": {"id-web": "shop"}}
    servers.revoke(vault.core, "ps-2")
    removal.remove(vault.core, "mt-1")
    assert greeting()["gone"] == ["mt-1", "ps-2"]
    site.join(tmp_path / "mt-1b", Role.MASTER_TARGET, name="mt-1")
    assert greeting()["gone"] == ["ps-2"], "another has that name now"
