"""Several addresses of one vault: the one that answers is asked, until it is away."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from homeport.servers.link import Link, Unprotected
from homeport.servers.next_url import REPEATABLE, NextUrl

A, B = "https://a.example:443", "https://b.example:8443"


class Instances(httpx.BaseTransport):
    """``ill``: by host what happens there: an answer, or an error."""

    def __init__(self) -> None:
        self.ill: dict[str, int | httpx.TransportError] = {}
        self.asked: list[str] = []
        self.bodies: list[bytes] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["Host"] == request.url.netloc.decode()
        self.asked.append(f"{request.url.host}{request.url.raw_path.decode()}")
        self.bodies.append(request.read())
        found = self.ill.get(request.url.host, 200)
        if isinstance(found, httpx.TransportError):
            raise found
        return httpx.Response(found, json={"by": request.url.host})


@pytest.fixture
def instances() -> Instances:
    return Instances()


@pytest.fixture
def client(instances: Instances) -> httpx.Client:
    return httpx.Client(base_url=A, transport=NextUrl([A, B], instances))


def by(answer: httpx.Response) -> str:
    return str(answer.json()["by"])


@pytest.mark.parametrize("ill", [httpx.ConnectError("refused"), httpx.ConnectTimeout("silent"), 502, 503, 504], ids=str)
def test_the_next_one_is_asked_in_the_same_breath_and_stays_it(
    client: httpx.Client, instances: Instances, ill: int | httpx.TransportError
) -> None:
    assert by(client.get("/v1/x", params={"wait": 1})) == "a.example"
    instances.ill = {"a.example": ill}
    assert by(client.post("/v1/y", json={"a": 1}, extensions=REPEATABLE)) == "b.example"
    assert instances.asked == ["a.example/v1/x?wait=1", "a.example/v1/y", "b.example/v1/y"]
    assert instances.bodies[1:] == [b'{"a":1}'] * 2
    instances.ill = {}
    assert by(client.get("/v1/x")) == "b.example", "who answers is asked"
    instances.ill = {"b.example": ill}
    assert by(client.get("/v1/x")) == "a.example"


def test_what_may_have_arrived_is_not_sent_to_another(client: httpx.Client, instances: Instances) -> None:
    instances.ill = {"a.example": httpx.ReadError("it died")}
    with pytest.raises(httpx.ReadError):
        client.post("/v1/y", json={})
    assert instances.asked == ["a.example/v1/y"]
    assert by(client.post("/v1/y", json={})) == "b.example"


@pytest.mark.parametrize("ill", [502, 503, 504])
@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "one"}], ids=["", "key"])
def test_what_may_have_been_carried_out_is_not_done_at_another(
    client: httpx.Client, instances: Instances, ill: int, headers: dict[str, str]
) -> None:
    """A vault keeps no keys for what servers ask."""
    instances.ill = {"a.example": ill}
    assert client.post("/v1/y", json={}, headers=headers).status_code == ill
    assert instances.asked == ["a.example/v1/y"]
    assert by(client.post("/v1/y", json={}, headers=headers)) == "b.example", "who asks again finds the next"


def test_what_was_never_sent_is_sent_to_the_next(client: httpx.Client, instances: Instances) -> None:
    instances.ill = {"a.example": httpx.ConnectError("refused")}
    assert by(client.post("/v1/y", json={"a": 1})) == "b.example"
    assert instances.bodies == [b'{"a":1}'] * 2


def test_what_is_refused_is_refused_by_the_vault(client: httpx.Client, instances: Instances) -> None:
    instances.ill = {"a.example": 409}
    assert client.get("/v1/x").status_code == 409
    assert instances.asked == ["a.example/v1/x"]


def test_where_all_are_away_the_last_says_so(client: httpx.Client, instances: Instances) -> None:
    instances.ill = {"a.example": httpx.ConnectError("refused"), "b.example": 503}
    assert client.get("/v1/x").status_code == 503
    instances.ill = {"a.example": 503, "b.example": httpx.ConnectError("refused")}
    with pytest.raises(httpx.ConnectError):
        client.get("/v1/x")
    assert len(instances.asked) == 4


def test_a_link_goes_on_at_the_next_listener() -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["Authorization"] == "Bearer t"
            self.server.asked += 1  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Not here."""

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Answers) for _ in range(2)]
    for server in servers:
        server.asked = 0  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    first, second = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        with Link(first, "t", others=(second,)).client(5.0) as client:
            assert client.get("/").status_code == 200
            servers[0].shutdown()
            servers[0].server_close()
            assert client.get("/").status_code == 200
        assert [server.asked for server in servers] == [1, 1]  # type: ignore[attr-defined]
    finally:
        servers[1].shutdown()
        servers[1].server_close()
    with pytest.raises(Unprotected):
        Link(first, "t", others=("http://elsewhere.example",))
