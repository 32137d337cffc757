"""The chain on its two files: verified when the guest starts, and whenever somebody asks."""

from __future__ import annotations

import os

from demo.guest.inside.records import NOTHING, SLOT, BrokenChain, Record, decode, disk_of, encode, offset_of

_AT_ONCE = 64
"""Slots read from each file at a time while verifying."""


class Chain:
    """The records in two files, one on each disk. ``last``: the newest record (None: none yet); ``torn``: a record that
    was cut off in the middle by a crash and taken away when the guest started (only the very last one may be)."""

    def __init__(self, paths: tuple[str, str]) -> None:
        """Opens the files, or makes them. Raises OSError."""
        self.paths = paths
        self.torn: int | None = None
        self.last: Record | None = None
        self._files = tuple(os.open(path, os.O_RDWR | os.O_CREAT, 0o644) for path in paths)

    def find_end(self) -> None:
        """Set ``last`` from the ends of both files; takes a torn last record away. Raises BrokenChain, OSError."""
        sizes = [os.fstat(file).st_size for file in self._files]
        # How many records there are if every slot counts, a partly written one too.
        slots = [-(-size // SLOT) for size in sizes]
        count = slots[0] + slots[1]
        if slots[0] - slots[1] not in (0, 1):
            raise BrokenChain(
                min(2 * slots[0], 2 * slots[1] + 1), f"disk0 holds {slots[0]} records and disk1 holds {slots[1]}"
            )
        if count == 0:
            return
        last = self.read(count - 1)
        if last is None:
            number = count - 1
            os.ftruncate(self._files[disk_of(number)], offset_of(number))
            os.fsync(self._files[disk_of(number)])
            self.torn = number
            if number == 0:
                return
            last = self.read(number - 1)
            if last is None:
                raise BrokenChain(number - 1, "not a whole record, and not the last one")
        self.last = last

    def read(self, number: int) -> Record | None:
        """Record ``number`` as the disk holds it, or None where there is none."""
        record = decode(os.pread(self._files[disk_of(number)], SLOT, offset_of(number)))
        return record if record is not None and record.number == number else None

    def append(self, time: int, payload: bytes) -> None:
        """Write the next record; on stable storage when it returns. Raises OSError."""
        number, previous = (0, NOTHING) if self.last is None else (self.last.number + 1, self.last.digest)
        slot = encode(number, time, previous, payload)
        file = self._files[disk_of(number)]
        if os.pwrite(file, slot, offset_of(number)) != SLOT:
            raise OSError(f"record {number} was written in part")
        os.fsync(file)
        self.last = Record(number, time, previous, slot[-32:])

    def verify(self) -> int:
        """Read every record up to ``last`` again, from the disks and not from memory, and follow the chain through it.

        Returns how many records there are. Raises BrokenChain, OSError.
        """
        last = self.last
        if last is None:
            return 0
        for file in self._files:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        previous = NOTHING
        for start in range(0, last.number + 1, 2 * _AT_ONCE):
            chunks = [memoryview(os.pread(file, _AT_ONCE * SLOT, offset_of(start))) for file in self._files]
            for number in range(start, min(start + 2 * _AT_ONCE, last.number + 1)):
                at = offset_of(number - start)
                record = decode(chunks[disk_of(number)][at : at + SLOT])
                if record is None:
                    raise BrokenChain(number, f"no whole record there on disk{disk_of(number)}")
                if record.number != number:
                    raise BrokenChain(number, f"disk{disk_of(number)} holds record {record.number} there")
                if record.previous != previous:
                    raise BrokenChain(number, f"it doesn't name record {number - 1} of disk{disk_of(number + 1)}")
                previous = record.digest
        if previous != last.digest:
            raise BrokenChain(last.number, "the disk holds another record than the one that was written")
        return last.number + 1
