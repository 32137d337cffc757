"""The guest agent's client against a peer that behaves as badly as a real one may."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from homeport.qemu.agent import AgentError, AgentSilent, GuestAgent


@contextmanager
def peer(answer: Callable[[dict[str, object]], bytes], junk: bytes = b"") -> Iterator[socket.socket]:
    """Our end of a connection whose other end sends ``junk`` first and then ``answer(request)`` for each line."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        theirs.sendall(junk)
        buffer = b""
        while data := theirs.recv(4096):
            buffer += data
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                theirs.sendall(answer(json.loads(line.lstrip(b"\xff"))))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()
        theirs.close()


def well(request: dict[str, object]) -> bytes:
    """As a healthy agent answers."""
    if request["execute"] == "guest-sync-delimited":
        arguments = request["arguments"]
        assert isinstance(arguments, dict)
        return b"\xff" + json.dumps({"return": arguments["id"]}).encode() + b"\n"
    if request["execute"] == "guest-fsfreeze-freeze":
        return b'{"return": 3}\n'
    if request["execute"] == "guest-fsfreeze-status":
        return b'{"return": "frozen"}\n'
    if request["execute"] == "guest-exec":
        return b'{"error": {"class": "CommandNotFound", "desc": "disabled"}}\n'
    return b'{"return": {}}\n'


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b'{"return": 17}\n',
        b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n\xff{"ret',
        b"\xff\xff",
    ],
    ids=["none", "an older answer", "an error and a torn answer", "marks"],
)
def test_what_was_left_in_the_stream_is_read_past(junk: bytes) -> None:
    with peer(well, junk and junk + b"\n") as sock, GuestAgent.on(sock) as agent:
        assert agent.freeze() == 3
        assert agent.freeze_status() == "frozen"
        agent.ping()


def test_a_refusal_carries_the_agents_words() -> None:
    with peer(well) as sock, GuestAgent.on(sock) as agent:
        with pytest.raises(AgentError) as caught:
            agent.command("guest-exec", {"path": "/bin/true"})
        assert (caught.value.error_class, caught.value.desc) == ("CommandNotFound", "disabled")
        agent.ping()


def test_no_answer_is_silence_after_the_time_out() -> None:
    with peer(lambda request: b"") as sock, pytest.raises(AgentSilent):
        GuestAgent.on(sock, 0.2)


def test_an_answer_after_a_time_out_is_not_taken_for_the_next_one() -> None:
    late: list[bytes] = []

    def slowly(request: dict[str, object]) -> bytes:
        if request["execute"] == "guest-fsfreeze-freeze":
            late.append(well(request))
            return b""
        return b"".join(late) + well(request)

    with peer(slowly) as sock, GuestAgent.on(sock, 5) as agent:
        with pytest.raises(AgentSilent):
            agent.freeze(0.2)
        agent.synchronize()
        late.clear()
        assert agent.freeze_status() == "frozen"


def test_nobody_at_the_socket_is_silence(tmp_path: object) -> None:
    with pytest.raises(AgentSilent):
        GuestAgent(f"{tmp_path}/nobody", 0.2)
