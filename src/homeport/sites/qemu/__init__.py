"""Machines of KVM/QEMU in folders: ``PATH/NAME/machine.toml`` and the images beside it."""

from homeport.sites.qemu.host import host_id
from homeport.sites.qemu.site import QemuSite, Tended

__all__ = ["QemuSite", "Tended", "host_id"]
