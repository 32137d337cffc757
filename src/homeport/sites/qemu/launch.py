"""The command lines that make a machine: pure functions.

The block graph of every machine, which the tracker of changes relies on::

    diskN-dev     virtio-blk-pci: the guest's disk (runner "qemu" only)
    diskN         raw filter, always there: what is switched in under it can't be seen from above
    diskN-format  raw or qcow2: the image; bitmaps lie here, block-stream works here
    diskN-file    the file
    diskN-point   overlays only: the NBD client of the recovery point, qcow2's backing

All paths of sockets are names within the run folder, which is the process's working directory: a unix socket's path
may have 107 bytes only, a site's path may be longer.
"""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

from homeport.domain.machines import Disk, Nic
from homeport.qemu.graph import filter_options
from homeport.sites.qemu.description import ISOLATED, Description, parse_forward
from homeport.sites.qemu.images import direct_io

QMP = "qmp.sock"
"""For whoever tracks changes."""
SITE_QMP = "site.sock"
"""For the site itself: a QMP socket serves one client at a time, and a tracker may stay for long."""
AGENT = "agent.sock"
CONSOLE = "console.log"
DISKS = "disks.sock"
"""Runner "storage-daemon": the writable NBD exports, one per disk, named like the disk."""
POINT = "point.sock"
"""A symbolic link to the recovery point's server."""

RECONNECT_SECONDS = 86400
"""How long a read from a recovery point waits for its server to come back before the guest is stopped."""
OPEN_SECONDS = 30


def block_nodes(folder: Path, description: Description) -> list[dict[str, Any]]:
    """The arguments of ``blockdev-add`` for all disks, in an order in which each finds its children."""
    nodes: list[dict[str, Any]] = []
    for disk in description.disks:
        nodes += _disk_nodes(folder, disk, description)
    return nodes


def _disk_nodes(folder: Path, disk: Disk, description: Description) -> list[dict[str, Any]]:
    image = folder / disk.path
    file: dict[str, Any] = {
        "driver": "file",
        "node-name": f"{disk.id}-file",
        "filename": str(image),
        "discard": "unmap",
    }
    if image.is_block_device():
        file["driver"] = "host_device"
    if direct_io(image):
        file["cache"] = {"direct": True}
    form: dict[str, Any] = {
        "driver": disk.format,
        "node-name": f"{disk.id}-format",
        "file": f"{disk.id}-file",
        "discard": "unmap",
    }
    nodes = [file, form, filter_options(disk.id)]
    if "cache" in file:
        form["cache"] = file["cache"]
    origin = description.origin
    if origin is not None and not origin.hydrated:
        # given here, the backing holds whatever the image's header says: a header that a stream job has just changed
        # counts only once the machine's description says so too
        form["backing"] = f"{disk.id}-point"
        nodes.insert(0, _point_node(disk, origin.service.exports[disk.id]))
    return nodes


def _point_node(disk: Disk, export: str) -> dict[str, Any]:
    return {
        "driver": "nbd",
        "node-name": f"{disk.id}-point",
        "server": {"type": "unix", "path": POINT},
        "export": export,
        "read-only": True,
        "reconnect-delay": RECONNECT_SECONDS,
        "open-timeout": OPEN_SECONDS,
    }


def qemu_command(name: str, folder: Path, description: Description, accelerator: str) -> list[str]:
    """QEMU for this machine, its guest not begun (``-S``); after the guest powers off, its disks stay readable."""
    cpu = description.cpu
    if cpu == "auto":
        cpu = "host" if accelerator == "kvm" else "max"
    command = [
        "qemu-system-x86_64",
        *("-name", "guest=" + name.replace(",", ",,")),
        *("-uuid", description.uuid),
        *("-machine", description.machine),
        *("-accel", accelerator),
        *("-cpu", cpu),
        *("-smp", str(description.cpus)),
        *("-m", f"size={description.memory}b"),
        *("-no-user-config", "-nodefaults", "-display", "none", "-vga", "std"),
        *("-no-shutdown", "-S"),
        *("-rtc", "base=utc"),
        *("-pidfile", "qemu.pid"),
        *_monitor("-chardev", "-mon"),
        *("-chardev", f"file,id=console,path={CONSOLE},append=on", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={AGENT},server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *("-device", "virtio-rng-pci"),
    ]
    for node in block_nodes(folder, description):
        command += ["-blockdev", json.dumps(node)]
    for number, disk in enumerate(description.disks):
        device = {
            "driver": "virtio-blk-pci",
            "id": f"{disk.id}-dev",
            "drive": disk.id,
            "serial": disk.id,
            "bootindex": number + 1,
            # the guest stops rather than sees an error; the site resumes it when the cause is gone
            "werror": "stop",
            "rerror": "stop",
        }
        command += ["-device", json.dumps(device)]
    for number, nic in enumerate(description.nics):
        command += ["-netdev", netdev(f"net{number}", nic)]
        # no boot from the network: its ROM costs seconds, and a package that need not be there
        command += ["-device", f"virtio-net-pci,netdev=net{number},mac={nic.mac},romfile="]
    return command


def netdev(identity: str, nic: Nic) -> str:
    """User-mode network: the guest gets out (not from an isolated one), in only by the forwarded ports."""
    parts = ["user", f"id={identity}", f"restrict={'on' if nic.network == ISOLATED else 'off'}"]
    parts += _dhcp(nic.ip)
    for pair in nic.forward:
        address, local, guest = parse_forward(pair)
        parts.append(f"hostfwd=tcp:{address}:{local}-:{guest}")
    return ",".join(parts)


def _dhcp(ip: str) -> list[str]:
    """A user-mode network whose DHCP server gives ``ip`` first, to the only guest that there is. Of an address that it
    can't give (IPv6, a network's first or last) nothing is said: the guest gets QEMU's own."""
    try:
        address = ipaddress.IPv4Address(ip)
    except ValueError:
        return []
    network = ipaddress.IPv4Network((address, 24), strict=False)
    if address in (network.network_address, network.broadcast_address):
        return []
    host, dns = [network[number] for number in (2, 3, 4) if network[number] != address][:2]
    return [f"net={network}", f"host={host}", f"dns={dns}", f"dhcpstart={address}"]


def storage_daemon_command(folder: Path, description: Description) -> list[str]:
    """A machine of disks only. Its exports are added when it is switched on: see :func:`writable_export`."""
    command = ["qemu-storage-daemon", "--pidfile", "qemu.pid", *_monitor("--chardev", "--monitor")]
    for node in block_nodes(folder, description):
        command += ["--blockdev", json.dumps(node)]
    return [*command, "--nbd-server", f"addr.type=unix,addr.path={DISKS}"]


def writable_export(disk: str, identity: str) -> dict[str, Any]:
    """The arguments of ``block-export-add``: the "guest's" access to a disk."""
    return {"type": "nbd", "id": identity, "node-name": disk, "name": disk, "writable": True}


def _monitor(chardev: str, monitor: str) -> list[str]:
    arguments: list[str] = []
    for identity, path in (("qmp", QMP), ("site", SITE_QMP)):
        arguments += [chardev, f"socket,id={identity},path={path},server=on,wait=off"]
        arguments += [monitor, f"chardev={identity},mode=control" if monitor == "-mon" else f"chardev={identity}"]
    return arguments
