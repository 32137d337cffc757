"""systemd units: one per role, with no more rights than it needs."""

from __future__ import annotations

import shutil

from homeport.domain.servers import Role

AFTER = {
    Role.VAULT: "network-online.target postgresql.service",
    Role.CONFIGURATION_SERVER: "network-online.target",
    Role.PROCESS_SERVER: "network-online.target homeport-configuration-server.service",
    Role.MASTER_TARGET: "network-online.target homeport-configuration-server.service",
    Role.MOBILITY_SERVICE: "network-online.target homeport-configuration-server.service",
}


def unit(role: Role, command: str | None = None) -> str:
    """``command``: the `homeport` executable; None: the one found in the path, else /usr/bin/homeport."""
    command = command or shutil.which("homeport") or "/usr/bin/homeport"
    site = role is not Role.VAULT
    lines = [
        "[Unit]",
        f"Description=Homeport {role}",
        "Wants=network-online.target",
        f"After={AFTER[role]}",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={command} serve {role} --config /etc/homeport/{role}.toml",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartSec=2",
        "TimeoutStopSec=90",
        "# Machines and point servers are processes of their own: they go on when this one ends.",
        "KillMode=process" if site else "KillMode=mixed",
        f"StateDirectory=homeport/{role}",
        "StateDirectoryMode=0700",
        "UMask=0077",
        "LimitNOFILE=65536",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
    ]
    if not site:
        lines += [
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
            "User=homeport",
            "Group=homeport",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "ProtectHome=yes",
            "PrivateTmp=yes",
            "PrivateDevices=yes",
            "ProtectKernelTunables=yes",
            "ProtectControlGroups=yes",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        ]
    lines += ["", "[Install]", "WantedBy=multi-user.target"]
    return "\n".join(lines) + "\n"
