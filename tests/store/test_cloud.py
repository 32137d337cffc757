"""Clouds, through real servers and a proxy that fails: what each failure means, and what another try makes of it."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homeport.domain.units import KiB, MiB
from homeport.store import AlreadyExists, NotFound, Objects, StoreError, StoreUnavailable, open_objects
from homeport.store import address as addresses
from homeport.store import objects as bucket
from homeport.store.azure import open_azure
from homeport.store.errors import StoreDenied, StoreThrottled, StoreUnreachable, StoreUnsuitable
from homeport.store.gcs import open_gcs
from homeport.store.probe import probe
from homeport.store.retrying import Retrying
from tests.store.proxy import CUT_ANSWER, CUT_REQUEST, FAIL_AFTER, LOSE_ANSWER, RESET, SILENT, Fault, Proxy
from tests.store.servers import ACCOUNT, Azurite, Moto, s3_url
from tests.store.stores import noise


class Rig:
    """``objects``: the whole stack, with short waits; ``single``: without another try."""

    def __init__(self, url: str, proxy: Proxy) -> None:
        opened = open_objects(url)
        assert isinstance(opened, Retrying)
        self.single: Objects = opened.inner
        self.objects: Objects = Retrying(self.single, patience=2.0, first=0.01, longest=0.05)
        self.proxy = proxy
        proxy.seen.clear()


def s3_rig(moto: Moto, credentials: Path) -> Rig:
    proxy = Proxy(moto.netloc)
    return Rig(s3_url(moto, credentials, moto.new_bucket(), proxy.netloc, "&timeout=1"), proxy)


@pytest.fixture(params=["s3", "azure"])
def rig(request: pytest.FixtureRequest, credentials: Path) -> Iterator[Rig]:
    if request.param == "s3":
        rig = s3_rig(request.getfixturevalue("moto"), credentials)
    else:
        azurite: Azurite = request.getfixturevalue("azurite")
        proxy = Proxy(azurite.netloc)
        endpoint = f"http://{proxy.netloc}/{ACCOUNT}"
        container = azurite.new_container()
        rig = Rig(f"az://{ACCOUNT}/{container}?endpoint={endpoint}&credentials={credentials}&timeout=1", proxy)
    yield rig
    rig.proxy.close()


@pytest.mark.parametrize("fault", [LOSE_ANSWER, FAIL_AFTER])
def test_a_put_whose_answer_was_lost_is_no_conflict_with_itself(rig: Rig, fault: Fault, tmp_path: Path) -> None:
    data = noise(1, 300 * KiB)
    rig.proxy.fail("PUT", fault, fault)
    rig.objects.put("m/1", data)
    assert rig.objects.get("m/1") == data
    path = tmp_path / "spooled"
    path.write_bytes(data)
    rig.proxy.fail("PUT", fault)
    rig.objects.put_file("m/2", path)
    assert rig.objects.get("m/2") == data
    with pytest.raises(AlreadyExists):  # a second create is one, even of the same bytes
        rig.objects.put("m/1", data)


@pytest.mark.parametrize("fault", [LOSE_ANSWER, RESET, 503])
def test_another_writers_object_is_a_conflict_after_another_try_too(rig: Rig, fault: Fault, tmp_path: Path) -> None:
    rig.objects.put("m/1", b"theirs")
    path = tmp_path / "spooled"
    path.write_bytes(b"ours !")
    rig.proxy.fail("PUT", fault)
    with pytest.raises(AlreadyExists):
        rig.objects.put("m/1", b"ours, longer")
    rig.proxy.fail("PUT", fault)
    with pytest.raises(AlreadyExists):
        rig.objects.put_file("m/1", path)
    assert rig.objects.get("m/1") == b"theirs"


@pytest.mark.parametrize("fault", [RESET, CUT_REQUEST, LOSE_ANSWER, FAIL_AFTER, 429, 503])
def test_every_verb_is_tried_again(rig: Rig, fault: Fault) -> None:
    data = noise(2, 100 * KiB)
    rig.proxy.fail("PUT", fault)
    rig.objects.put("m/1", data, if_absent=False)
    rig.proxy.fail("GET", fault)
    assert rig.objects.get("m/1") == data
    rig.proxy.fail("HEAD", fault)
    assert rig.objects.size("m/1") == len(data)
    rig.proxy.fail("GET", fault, fault)
    assert rig.objects.get_range("m/1", 1000, 1000) == data[1000:2000]
    rig.proxy.fail("GET", fault)
    assert list(rig.objects.list("m/")) == [("m/1", len(data))]
    rig.proxy.fail("DELETE", fault)
    rig.proxy.fail("POST", fault)  # Azure's deletes come in batches
    rig.objects.delete("m/1")
    with pytest.raises(NotFound):
        rig.objects.size("m/1")


def test_a_storage_that_says_nothing_is_asked_again(moto: Moto, credentials: Path) -> None:
    rig = s3_rig(moto, credentials)
    rig.proxy.fail("PUT", SILENT)
    rig.objects.put("m/1", b"x")
    assert rig.objects.get("m/1") == b"x"
    rig.proxy.close()


def test_a_torn_upload_leaves_nothing_and_a_torn_download_is_no_answer(rig: Rig) -> None:
    data = noise(3, 2 * MiB)
    rig.proxy.fail("PUT", CUT_REQUEST)
    with pytest.raises(StoreUnreachable):
        rig.single.put("m/1", data)
    with pytest.raises(NotFound):
        rig.single.get("m/1")
    rig.single.put("m/1", data)
    for ask in (lambda o: o.get("m/1"), lambda o: o.get_range("m/1", 0, MiB)):
        rig.proxy.fail("GET", CUT_ANSWER)
        with pytest.raises(StoreUnreachable):
            ask(rig.single)
        rig.proxy.fail("GET", CUT_ANSWER)
        assert data.startswith(ask(rig.objects))


def test_a_list_that_breaks_off_is_whole_all_the_same(rig: Rig) -> None:
    keys = [f"m/{number:03d}" for number in range(25)]
    for key in keys:
        rig.objects.put(key, b"")
    for fault in (RESET, 503, CUT_ANSWER):
        rig.proxy.fail("GET", fault)
        entries = rig.objects.list("m/")
        found = [next(entries)[0]]
        rig.proxy.fail("GET", fault)
        assert found + [key for key, _ in entries] == keys


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (403, StoreDenied, "store.denied"),
        (401, StoreDenied, "store.denied"),
        (503, StoreThrottled, "store.throttled"),
        (429, StoreThrottled, "store.throttled"),
        (500, StoreUnreachable, "store.unreachable"),
        (RESET, StoreUnreachable, "store.unreachable"),
        (507, StoreUnavailable, "store.full"),
        (400, StoreUnavailable, "store.unavailable"),
    ],
)
def test_a_failure_has_a_name(rig: Rig, fault: Fault, kind: type[StoreError], code: str) -> None:
    acts: dict[str, Callable[[], object]] = {
        "PUT": lambda: rig.single.put("m/1", b"x"),
        "GET": lambda: rig.single.get("m/1"),
        "HEAD": lambda: rig.single.size("m/1"),
    }
    for verb, act in acts.items():
        rig.proxy.fail(verb, fault)
        with pytest.raises(kind) as raised:
            act()
        assert raised.value.code == code
        assert "\n" not in raised.value.cause
    rig.proxy.fail("GET", fault)
    with pytest.raises(kind) as raised:
        list(rig.single.list("m/"))
    assert raised.value.code == code


def test_a_refusal_is_not_repeated(rig: Rig) -> None:
    rig.proxy.fail("PUT", 403)
    with pytest.raises(StoreDenied):
        rig.objects.put("m/1", b"x")
    assert [verb for verb, _ in rig.proxy.seen] == ["PUT"]


def test_a_create_that_met_anothers_request_is_no_conflict_yet(rig: Rig) -> None:
    rig.proxy.fail("PUT", 409)  # Amazon's ConditionalRequestConflict: nothing was decided
    rig.objects.put("m/1", b"x")
    assert rig.objects.get("m/1") == b"x"


def test_patience_ends(rig: Rig) -> None:
    rig.proxy.fail("GET", *[503] * 1000)
    began = time.monotonic()
    with pytest.raises(StoreThrottled):
        Retrying(rig.single, patience=0.3, first=0.01).get("m/1")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("unknown", "match"), [("if-none-match", "overwrites"), ("range", "range")], ids=["create", "range"]
)
def test_a_server_that_lacks_what_the_format_needs_is_refused(
    moto: Moto, credentials: Path, unknown: str, match: str
) -> None:
    """As s3rver and ``rclone serve s3`` are: they take a header that they don't know, overwrite, and answer 200."""
    rig = s3_rig(moto, credentials)
    rig.proxy.strip = {unknown}
    with pytest.raises(StoreUnsuitable, match=match):
        probe(rig.objects)
    assert list(rig.objects.list("")) == []
    rig.proxy.close()


def test_there_must_be_a_bucket_and_somebody_there(moto: Moto, azurite: Azurite, credentials: Path) -> None:
    for url in (
        s3_url(moto, credentials, "no-such-bucket"),
        f"az://{ACCOUNT}/no-such-container?endpoint=http://{azurite.netloc}/{ACCOUNT}&credentials={credentials}",
    ):
        with pytest.raises(StoreUnavailable, match="there is no bucket"):
            open_objects(url, create=True)


def test_a_wrong_key_is_denied(azurite: Azurite, credentials: Path) -> None:
    """(moto takes any.)"""
    container = azurite.new_container()
    credentials.write_text('[az]\naccount_key = "d3Jvbmc="\n')
    with pytest.raises(StoreDenied):
        open_objects(f"az://{ACCOUNT}/{container}?endpoint=http://{azurite.netloc}/{ACCOUNT}&credentials={credentials}")


def test_a_bucket_with_versions_is_known_as_one(moto: Moto, azurite: Azurite, credentials: Path) -> None:
    plain = open_objects(s3_url(moto, credentials, moto.new_bucket()))
    kept = open_objects(s3_url(moto, credentials, moto.new_bucket(versions=True)))
    locked = open_objects(s3_url(moto, credentials, moto.new_bucket(lock=True)))
    assert [bucket.versioned(objects) for objects in (plain, kept, locked)] == [False, True, True]
    container = azurite.new_container()
    endpoint = f"http://{azurite.netloc}/{ACCOUNT}"
    azure = open_objects(f"az://{ACCOUNT}/{container}?endpoint={endpoint}&credentials={credentials}")
    assert bucket.versioned(azure) is None  # it may keep what is deleted in ways that it doesn't tell


def test_google_is_asked_to_create_only_what_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server of it is at hand: only what is asked, and what its refusals mean."""
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "a-token")
    proxy = Proxy("127.0.0.1:1")
    objects = open_gcs(addresses.parse(f"gs://bucket/some/prefix?endpoint=http://{proxy.netloc}"))
    proxy.fail("PUT", 412)
    with pytest.raises(AlreadyExists):
        objects.put("m/1", b"x")
    assert proxy.seen == [("PUT", "/bucket/some%2Fprefix%2Fm%2F1")]
    assert proxy.headers["x-goog-if-generation-match"] == "0"
    proxy.fail("DELETE", 404)
    objects.delete("m/1")
    proxy.fail("GET", 404)
    with pytest.raises(NotFound):
        objects.get("m/1")
    proxy.fail("PUT", 403)
    with pytest.raises(StoreDenied):
        objects.put("m/1", b"x", if_absent=False)
    assert "x-goog-if-generation-match" not in proxy.headers
    proxy.close()


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/path",
        "no-scheme",
        f"s3://user:{SECRET}@bucket/prefix",
        f"s3://bucket/prefix#{SECRET}",
        f"s3://bucket?secret_access_key={SECRET}",
        f"az://account/container?sig={SECRET}",
        "s3://",
        "az://account",
        "s3://bucket/../other",
        "s3://bucket?timeout=soon",
        "s3://bucket?rate=0",
        "s3://bucket?path-style=maybe",
        "s3://bucket?rate=1&rate=2",
        f"s3://bucket?endpoint=http://user:{SECRET}@host",
        "gs://bucket?lock-days=3",
    ],
)
def test_an_address_that_isnt_one_is_refused_and_no_secret_is_printed(url: str) -> None:
    with pytest.raises(StoreError) as raised:
        open_objects(url)
    assert raised.value.code == "store.unsupported-url"
    assert SECRET not in str(raised.value.to_json())


def test_credentials_that_others_can_read_are_refused(
    moto: Moto, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{moto.new_bucket()}?endpoint=http://{moto.netloc}&region=us-east-1"
    monkeypatch.setenv("HOMEPORT_STORE_CREDENTIALS", str(credentials))
    assert "a-secret-key" not in repr(open_objects(url))
    spoilt: list[Callable[[], object]] = [
        lambda: credentials.chmod(0o640),
        lambda: credentials.write_text("[s3\n"),
        lambda: credentials.write_text("[az]\naccount_key='a'\n"),
        lambda: credentials.write_text(f"[s3]\npassword='{SECRET}'\n"),
        lambda: credentials.write_text(f"[s3]\naccess_key_id=['{SECRET}']\n"),
        credentials.unlink,
    ]
    for spoil in spoilt:
        credentials.touch(0o600)
        credentials.chmod(0o600)
        spoil()
        with pytest.raises(StoreError) as raised:
            open_objects(url)
        assert raised.value.code == "store.credentials"
        assert SECRET not in str(raised.value.to_json())


def test_a_signature_in_an_address_is_not_printed(credentials: Path) -> None:
    """Azure's shared access signatures stand in each request's address."""
    proxy = Proxy("127.0.0.1:1")
    credentials.write_text(f'[az]\nsas_key = "sv=2024-11-04&sp=rwdl&sig={SECRET}"\n')
    url = f"az://{ACCOUNT}/container?endpoint=http://{proxy.netloc}&credentials={credentials}"
    for fault in (400, 403, RESET):
        proxy.fail("GET", fault)
        with pytest.raises(StoreUnavailable) as raised:
            list(open_azure(addresses.parse(url)).list("m/"))
        assert SECRET not in str(raised.value.to_json())
        assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert any(SECRET in path for _, path in proxy.seen)
    proxy.close()


def test_the_environments_own_credentials_do_without_a_file(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    url = f"s3://{moto.new_bucket()}/p?endpoint=http://{moto.netloc}&region=us-east-1&rate=100M&requests=3"
    objects = open_objects(url)
    objects.put("m/1", b"x")
    assert list(objects.list("")) == [("m/1", 1)]
    assert SECRET not in repr(objects)
