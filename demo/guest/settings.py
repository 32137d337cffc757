"""What a guest can be told when it is built."""

from __future__ import annotations

from dataclasses import dataclass

from demo.guest.inside.records import SLOT
from homeport.domain.units import MiB

_SYSTEM_FILES = 56 * MiB
_FILE_SYSTEM = 20 * MiB


@dataclass(frozen=True)
class GuestSettings:
    """``system_size``, ``data_size``: of the two disks, bytes; ``rate``: records per second; ``capacity``: how many
    records until the writer stops (30 minutes at the default rate); ``port``: where the guest answers HTTP; ``name``:
    what it calls itself there."""

    system_size: int = 256 * MiB
    data_size: int = 128 * MiB
    rate: float = 20.0
    capacity: int = 36_000
    port: int = 80
    name: str = "demo"

    def __post_init__(self) -> None:
        """Raises ValueError when the records don't fit on the disks, or for a setting out of bounds."""
        records = -(-self.capacity // 2) * SLOT
        if self.system_size < records + _SYSTEM_FILES + _FILE_SYSTEM or self.data_size < records + _FILE_SYSTEM:
            raise ValueError(f"{self.capacity} records take {records // MiB} MiB on each disk: the disks are too small")
        if self.system_size % MiB or self.data_size % MiB:
            raise ValueError("the disks' sizes must be whole MiB")
        if self.system_size > 1 << 40:
            raise ValueError("the system disk has an MBR: it must not be larger than 1 TiB")
        if self.rate <= 0 or not 0 < self.port < 65536 or "\n" in self.name:
            raise ValueError("the rate must be positive, the port between 1 and 65535, the name one line")

    def text(self) -> str:
        """The file that the guest's service reads."""
        return f"name={self.name}\nrate={self.rate}\ncapacity={self.capacity}\nport={self.port}\n"
