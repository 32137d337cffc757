"""Freezing a guest's file systems for the instant of an app-consistent point, with a watchdog that thaws them."""

from __future__ import annotations

import subprocess
import sys
import time

import structlog

from homeport.qemu.agent import GuestAgent
from homeport.qemu.errors import AgentError, AgentSilent
from homeport.sources.errors import FreezeFailed
from homeport.sources.waiting import readable

log = structlog.get_logger(__name__)

FROZEN_AT_MOST = 10.0
"""Seconds after which the watchdog thaws, come what may."""
_ANSWER = 5.0
_FREEZE = 8.0
_START = 15.0
_TOO_LONG = "the instant was not taken while the guest was frozen for certain: the watchdog thawed it"


class Freeze:
    """A guest agent that answers, and a watchdog that is ready. Made before the freeze; :meth:`close` afterwards.

    Raises :class:`FreezeFailed` where either is missing: nothing is frozen then.
    """

    def __init__(self, agent_path: str, seconds: float = FROZEN_AT_MOST) -> None:
        try:
            self._agent = GuestAgent(agent_path, _ANSWER)
        except AgentSilent as error:
            raise FreezeFailed(f"the guest agent does not answer: {error}") from error
        try:
            self._watchdog = _start_watchdog(agent_path, self._agent.socket.fileno(), seconds)
        except BaseException:
            self._agent.close()
            raise

    def freeze(self) -> None:
        """Raises :class:`FreezeFailed`; the watchdog thaws then what may still freeze late."""
        try:
            frozen = self._agent.freeze(_FREEZE)
        except (AgentSilent, AgentError) as error:
            self.close(frozen=True)
            raise FreezeFailed(f"the guest did not freeze: {error}") from error
        if not frozen or self._watchdog_acts():
            self.close(frozen=True)
            raise FreezeFailed(_TOO_LONG if frozen else "the guest agent found no file system to freeze")

    def thaw(self) -> str:
        """Thaw and let the watchdog go. The reason why the freeze can't be relied upon, or "" where it held."""
        if self._watchdog_acts():
            self.close(frozen=True)
            return _TOO_LONG
        try:
            thawed = self._agent.thaw()
        except (AgentSilent, AgentError) as error:
            log.warning("the guest did not thaw; the watchdog goes on", reason=str(error))
            self.close(frozen=True)
            return f"the guest did not confirm its thaw: {error}"
        if self._watchdog_acts():  # the answer may have been meant for it
            self.close(frozen=True)
            return _TOO_LONG
        self.close(frozen=False)
        return "" if thawed else "the file systems were thawed before the point's instant was taken"

    def _watchdog_acts(self) -> bool:
        """Whether the watchdog thaws (or died): the connection is its own then."""
        stdout = self._watchdog.stdout
        assert stdout is not None
        return readable(stdout, 0)

    def close(self, frozen: bool) -> None:
        """Let go of the agent. ``frozen``: something may be frozen still: the watchdog sees to it at once, not we."""
        watchdog, pipe = self._watchdog, self._watchdog.stdin
        assert pipe is not None
        try:
            if not frozen and not pipe.closed:
                pipe.write(b"done\n")
        except BrokenPipeError:
            log.warning("the thaw watchdog had ended already", status=watchdog.poll())
        pipe.close()
        self._agent.close()
        if watchdog.stdout is not None:
            watchdog.stdout.close()
        try:
            watchdog.wait(0 if frozen else _ANSWER)
        except subprocess.TimeoutExpired:
            # It goes on by itself; a later wait of the interpreter (subprocess._cleanup) takes its exit status.
            log.info("the thaw watchdog goes on", pid=watchdog.pid)


def _start_watchdog(agent_path: str, descriptor: int, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "homeport.sources.thaw_watchdog"]
    command += ["--agent", agent_path, "--socket", str(descriptor), "--seconds", str(seconds)]
    watchdog = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        pass_fds=(descriptor,),
        start_new_session=True,
    )
    assert watchdog.stdin is not None
    assert watchdog.stdout is not None
    deadline = time.monotonic() + _START
    if readable(watchdog.stdout, deadline - time.monotonic()) and watchdog.stdout.readline() == b"ready\n":
        return watchdog
    watchdog.stdin.close()
    watchdog.stdout.close()
    watchdog.kill()  # nothing is frozen yet
    watchdog.wait()
    raise FreezeFailed("the watchdog that would thaw the guest did not start")
