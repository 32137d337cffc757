"""A configuration server that knows several addresses of its vault, over TLS."""

from __future__ import annotations

from pathlib import Path

import httpx

from homeport.domain.servers import Role
from homeport.servers.link import Link
from homeport.vault import servers
from tests.trust.world import InBetween, Served, Site, TlsVault, listen, url_of


def test_it_goes_on_at_the_next_and_is_who_it_was(vault: TlsVault, home: Site) -> None:
    listener = listen()
    second = Served(vault.vault.app, vault.identity, require_client=False, listener=listener)
    link = Link(vault.url, identity=home.identity, role=Role.VAULT, others=(url_of(listener),))
    try:
        with link.client(10.0) as client:
            assert client.get("/v1/agent/home/self").json()["serial"] == home.identity.serial
            vault.serving.stop()
            try:
                answer = client.get("/v1/agent/home/self")
            except httpx.TransportError:  # the open connection broke: who asked asks again
                answer = client.get("/v1/agent/home/self")
            assert answer.json()["serial"] == home.identity.serial
            servers.revoke(vault.core, "cs-home")
            assert client.get("/v1/agent/home/self").json()["code"] == "tls.certificate-revoked"
    finally:
        second.stop()


def test_who_is_not_the_vault_hears_nothing_and_the_next_is_asked(vault: TlsVault, home: Site, tmp_path: Path) -> None:
    between = InBetween(vault.url, vault.identity.who, tmp_path)
    link = Link(between.url, identity=home.identity, role=Role.VAULT, others=(vault.url,))
    try:
        with link.client(10.0) as client:
            assert client.get("/v1/agent/home/self").status_code == 200
        assert bytes(between.seen) == b""
    finally:
        between.stop()
