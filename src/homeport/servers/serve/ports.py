"""Every port that Homeport listens at, and who dials it: docs/ports.md is made of this."""

from __future__ import annotations

from dataclasses import dataclass

VAULT_PORT = 443
SITE_PORT = 443
DATA_PORT = 9443
LOCAL_PORT = 8480


@dataclass(frozen=True)
class Port:
    """``setting``: what sets it, in the role's configuration; ``to``: the role that listens."""

    to: str
    number: int
    setting: str
    callers: str
    what: str
    protection: str


PORTS = (
    Port(
        "vault",
        VAULT_PORT,
        "listen",
        "configuration servers of all sites; operators",
        "work by long poll, reports, joining; the REST API",
        "TLS 1.3; servers show their certificate, operators the vault's token",
    ),
    Port(
        "vault",
        LOCAL_PORT,
        "local",
        "`homeport …` on the vault's machine",
        "the REST API",
        "loopback only; the vault's token",
    ),
    Port(
        "configuration-server",
        SITE_PORT,
        "listen",
        "process servers, master targets and mobility services of its site",
        "work by long poll, reports, joining",
        "TLS 1.3, both sides by certificate; joining: the join passphrase",
    ),
    Port(
        "process-server",
        DATA_PORT,
        "listen",
        "process servers of the other sites; mobility services of its own",
        "recovery points, into and out of this site's store; what machines of this site wrote",
        "TLS 1.3, both sides by certificate; what crosses is sealed besides",
    ),
    Port("vault", 9470, "health", "monitoring", "GET /health", "loopback only"),
    Port("configuration-server", 9471, "health", "monitoring", "GET /health", "loopback only"),
    Port("process-server", 9472, "health", "monitoring", "GET /health", "loopback only"),
    Port("master-target", 9473, "health", "monitoring", "GET /health", "loopback only"),
    Port("mobility-service", 9474, "health", "monitoring", "GET /health", "loopback only"),
)


def health_port(role: str) -> int:
    return next(port.number for port in PORTS if port.to == role and port.setting == "health")


def document() -> str:
    """docs/ports.md."""
    rows = [
        "# Ports",
        "",
        "Made by `python -m homeport.servers.serve.ports`; a test holds it. All are TCP. Each number is a default: the",
        "setting named changes it, and the address that it is bound to, in the role's configuration",
        "(`homeport serve process-server --sample-config`). A master target and a mobility service listen at nothing",
        "but their health.",
        "",
        "| listens | port | setting | who dials it | for what | protected by |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {port.to} | {port.number} | `{port.setting}` | {port.callers} | {port.what} | {port.protection} |"
        for port in PORTS
    ]
    rows += [
        "",
        "## Through firewalls",
        "",
        "Nothing dials in to a site but the process servers of its partner sites, at the data port. Between two sites",
        "A and B that replicate to each other:",
        "",
        "| from | to | port |",
        "|---|---|---|",
        f"| configuration server A, configuration server B | vault | {VAULT_PORT} |",
        f"| process server A | process server B | {DATA_PORT} |",
        f"| process server B | process server A | {DATA_PORT} |",
        f"| process server, master target, mobility service of a site | its configuration server | {SITE_PORT} |",
        f"| mobility service of a site | process servers of that site | {DATA_PORT} |",
        "",
        "`homeport serve process-server --config FILE --check` tries each way and names the step at which it is",
        "blocked.",
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(document())
