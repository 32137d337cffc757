"""What can go wrong with a disk."""

from homeport.domain.errors import HomeportError


class DiskError(HomeportError):
    code = "disk.failed"
    remedy = "Look at the disk's file and at the storage below it, then try again."


class DiskInUse(DiskError):
    """Another process, mostly a running QEMU, holds the image's lock."""

    code = "disk.in-use"
    remedy = "Shut down the machine that uses this disk, then try again."


class DiskOutOfRange(DiskError):
    """A request reaches beyond the end of the disk."""

    code = "disk.out-of-range"
    remedy = "The disk may have been resized: refresh the site's inventory, then try again."


def check_range(name: object, size: int, offset: int, length: int) -> None:
    """Raise :class:`DiskOutOfRange` unless ``[offset, offset + length)`` lies within ``size`` bytes."""
    if offset < 0 or length < 0 or offset + length > size:
        raise DiskOutOfRange(
            f"{name}: bytes {offset} to {offset + length} were asked for, the disk has {size}",
            offset=offset,
            length=length,
            size=size,
        )
