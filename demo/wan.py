"""A WAN between two network namespaces: slow, far, bounded, and cut when told.

By netem(8) where the kernel has it; else by a process of its own that reads packets from a TUN device in one namespace
and writes them to the other's when their time has come.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import selectors
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from demo.namespaces import Namespace

MTU = 9000
"""Bytes. Large, so that what the emulation itself takes of the processors stays small."""
DEVICE = "wan"
_SET_INTERFACE = 0x400454CA  # TUNSETIFF
_TUN_WITHOUT_HEADER = 0x1001  # IFF_TUN | IFF_NO_PI
_AT_ONCE = 64
"""Packets read from one side before the other has its turn."""


@dataclass(frozen=True)
class WanQuality:
    """``round_trip``: seconds; ``rate``: bits per second, each way; ``queue``: seconds that a packet waits at most
    for those before it, longer is dropped; ``loss``: share of packets that are lost, 0 to 1."""

    round_trip: float = 0.040
    rate: float = 100e6
    queue: float = 0.100
    loss: float = 0.0


@dataclass
class Lane:
    """One direction: packets wait in a bounded queue for a link of a fixed rate, then travel for half a round trip."""

    quality: WanQuality
    free_at: float = 0.0
    """When the link has sent what it took so far."""
    carried: int = 0
    """Bytes."""
    dropped: int = 0
    """Packets that didn't fit into the queue."""
    travelling: deque[tuple[float, bytes]] = field(default_factory=deque)

    def admit(self, packet: bytes, now: float) -> bool:
        """Whether it travels; what arrives is in ``arrived`` then."""
        begin = max(now, self.free_at)
        if begin - now > self.quality.queue:
            self.dropped += 1
            return False
        self.free_at = begin + len(packet) * 8 / self.quality.rate
        self.carried += len(packet)
        self.travelling.append((self.free_at + self.quality.round_trip / 2, packet))
        return True

    def arrived(self, now: float) -> list[bytes]:
        """Taken out, in their order."""
        packets = []
        while self.travelling and self.travelling[0][0] <= now:
            packets.append(self.travelling.popleft()[1])
        return packets


class Emulator(Protocol):
    """What makes two namespaces a WAN apart."""

    def start(self) -> None: ...
    def change(self, quality: WanQuality, *, cut: bool) -> None: ...
    def stop(self) -> None: ...


class Wan:
    """The link between two routers, from ``start`` to ``stop``: its device is ``wan`` in either namespace."""

    def __init__(self, a: Namespace, b: Namespace, quality: WanQuality) -> None:
        self.quality = quality
        self._cut = False
        self._emulator: Emulator = Netem(a, b, quality) if has_netem(a) else Relay(a, b, quality)

    @property
    def how(self) -> str:
        return "netem" if isinstance(self._emulator, Netem) else "a TUN relay"

    def start(self) -> None:
        """Raises OSError."""
        self._emulator.start()

    def cut(self) -> None:
        """Nothing arrives any more, and nobody is told: not even what is on its way arrives."""
        self._cut = True
        self._emulator.change(self.quality, cut=True)

    def restore(self) -> None:
        self._cut = False
        self._emulator.change(self.quality, cut=False)

    def set_loss(self, share: float) -> None:
        """Lose this share of packets from now on."""
        self.quality = WanQuality(**{**asdict(self.quality), "loss": share})
        self._emulator.change(self.quality, cut=self._cut)

    def stop(self) -> None:
        """Its devices and process are gone; calling it again does no harm."""
        self._emulator.stop()


def has_netem(namespace: Namespace) -> bool:
    """Tried on the namespace's loopback, which is left as it was."""
    tc = ["tc", "-n", namespace.name, "qdisc"]
    try:
        done = subprocess.run([*tc, "add", "dev", "lo", "root", "netem"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    if done.returncode == 0:
        subprocess.run([*tc, "del", "dev", "lo", "root"], capture_output=True, check=False)
    return done.returncode == 0


class Netem:
    """A veth pair whose ends both delay and limit what they send."""

    def __init__(self, a: Namespace, b: Namespace, quality: WanQuality) -> None:
        self._a, self._b, self._quality = a, b, quality

    def start(self) -> None:
        _run("ip", "-n", self._a.name, "link", "add", DEVICE, "mtu", str(MTU), "type", "veth",
             "peer", "name", DEVICE, "mtu", str(MTU), "netns", self._b.name)  # fmt: skip
        _address(self._a, self._b)
        for end in (self._a, self._b):
            _run(
                "tc", "-n", end.name, "qdisc", "add", "dev", DEVICE, "root", "netem", *self._words(self._quality, False)
            )

    def change(self, quality: WanQuality, *, cut: bool) -> None:
        for end in (self._a, self._b):
            # replace, not change: what is on its way is lost in a cut
            _run("tc", "-n", end.name, "qdisc", "replace", "dev", DEVICE, "root", "netem", *self._words(quality, cut))

    def stop(self) -> None:
        subprocess.run(["ip", "-n", self._a.name, "link", "del", DEVICE], capture_output=True, check=False)

    def _words(self, quality: WanQuality, cut: bool) -> list[str]:
        # netem counts packets that travel into its limit
        held = (quality.queue + quality.round_trip / 2) * quality.rate / 8 / MTU
        loss = 1.0 if cut else quality.loss
        return [
            "limit", str(max(10, round(held))), "delay", f"{quality.round_trip / 2 * 1e6:.0f}us",
            "rate", f"{quality.rate:.0f}bit", "loss", f"{loss * 100:.4f}%",
        ]  # fmt: skip


class Relay:
    """A process between two TUN devices. It ends with its last word from us: when we die, it does."""

    def __init__(self, a: Namespace, b: Namespace, quality: WanQuality) -> None:
        self._a, self._b, self._quality = a, b, quality
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "demo.wan", self._a.name, self._b.name, json.dumps(asdict(self._quality))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        self._heard()
        _address(self._a, self._b)

    def change(self, quality: WanQuality, *, cut: bool) -> None:
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"quality": asdict(quality), "cut": cut}) + "\n")
        process.stdin.flush()
        self._heard()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _heard(self) -> None:
        process = self._running()
        assert process.stdout is not None
        if not process.stdout.readline():
            raise OSError(f"the WAN's process ended with {process.wait()}")

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError("the WAN isn't up")
        return self._process


def _address(a: Namespace, b: Namespace) -> None:
    for end, own, other in ((a, "10.77.0.1", "10.77.0.2"), (b, "10.77.0.2", "10.77.0.1")):
        _run("ip", "-n", end.name, "addr", "add", own, "peer", other, "dev", DEVICE)
        _run("ip", "-n", end.name, "link", "set", DEVICE, "mtu", str(MTU), "up")


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


# ── the relay's own process ─────────────────────────────────────────────────────────────────────────────────────────


def relay(a: int, b: int, quality: WanQuality) -> None:
    """Carry packets between two TUN devices until standard input ends."""
    lanes = {a: Lane(quality), b: Lane(quality)}
    other = {a: b, b: a}
    cut = False
    orders = b""
    selector = selectors.DefaultSelector()
    for opened in (a, b, 0):
        selector.register(opened, selectors.EVENT_READ)
    while True:
        due = min((lane.travelling[0][0] for lane in lanes.values() if lane.travelling), default=None)
        timeout = None if due is None else max(0.0, due - time.monotonic())
        for key, _ in selector.select(timeout):
            if key.fd != 0:
                _take_in(key.fd, lanes[key.fd], cut)
                continue
            orders += (read := os.read(0, 65536))
            if not read:
                return
            while b"\n" in orders:
                line, _, orders = orders.partition(b"\n")
                order = json.loads(line)
                cut = order["cut"]
                for lane in lanes.values():
                    lane.quality = WanQuality(**order["quality"])
                    if cut:
                        lane.travelling.clear()
                _say({})
        for source, lane in lanes.items():
            for packet in lane.arrived(time.monotonic()):
                with contextlib.suppress(OSError):  # its end is down or full: lost, as on any link
                    os.write(other[source], packet)


def _take_in(device: int, lane: Lane, cut: bool) -> None:
    for _ in range(_AT_ONCE):
        try:
            packet = os.read(device, 65536)
        except BlockingIOError:
            return
        if not cut and not (lane.quality.loss and random.random() < lane.quality.loss):
            lane.admit(packet, time.monotonic())


def _open_tun(namespace: Namespace) -> int:
    with namespace.inside():
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH22x", DEVICE.encode(), _TUN_WITHOUT_HEADER))
    return device


def _say(word: dict[str, Any]) -> None:
    print(json.dumps(word), flush=True)


def main() -> None:
    a, b, quality = sys.argv[1:]
    devices = [_open_tun(Namespace(name)) for name in (a, b)]
    _say({})
    relay(devices[0], devices[1], WanQuality(**json.loads(quality)))


if __name__ == "__main__":
    main()
