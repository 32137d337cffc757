"""Object lock on a real S3 server: what is locked stays, what isn't goes with all its versions."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from homeport.domain.points import PointId
from homeport.store import AlreadyExists, MachineStore, NotFound, StoreError, names, open_objects
from homeport.store.errors import Locked
from homeport.store.names import Segment
from homeport.store.probe import probe
from homeport.store.retrying import Retrying
from homeport.store.s3_lock import is_kept
from homeport.store.sigv4 import Credentials, signed_headers
from tests.store.proxy import LOSE_ANSWER, Proxy
from tests.store.servers import Moto, s3_url
from tests.store.stores import KEYS, MACHINE, T1, add_point, blocks, read_all

SEGMENT = "machines/a/t/b/segment/0000000001-0000000001"
KEY = names.machine_key("a", 1)


def test_what_is_locked_is_what_no_point_can_be_read_without() -> None:
    point = PointId(T1, 3)
    prefix = names.timeline(MACHINE, T1)
    kept = [
        names.vault(1),
        names.machine_key(MACHINE, 1),
        prefix + "timeline",
        names.point(MACHINE, point),
        names.part(MACHINE, T1, 1),
        Segment(T1, 1, 1).key(MACHINE),
    ]
    assert [key for key in kept if not is_kept(key)] == []
    goes = [
        names.thin(MACHINE, T1, 1, 2, 3),
        names.layer(MACHINE, T1, 2, 15),
        names.digests(MACHINE, point, "segment"),
        names.lease(MACHINE, point, "point"),
        names.description(MACHINE, 1),
        names.epoch(MACHINE, T1, 1),
        names.fold(MACHINE, T1, 1),
        names.hide(MACHINE, T1, 1),
        "probe/point/1",
    ]
    assert [key for key in goes if is_kept(key)] == []


def test_a_signature_is_as_amazon_documents_it() -> None:
    """ "GET Object" of the page that sigv4.py names."""
    headers = signed_headers(
        "GET",
        "examplebucket.s3.amazonaws.com",
        "/test.txt",
        {},
        {"Range": "bytes=0-9"},
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        "us-east-1",
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert headers["authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_a_signed_query_is_as_amazon_documents_it() -> None:
    """ "Get Bucket (List Objects)" of the same page."""
    headers = signed_headers(
        "GET",
        "examplebucket.s3.amazonaws.com",
        "/",
        {"prefix": "J", "max-keys": "2"},
        {},
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        "us-east-1",
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert headers["authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


def versions(moto: Moto, bucket: str) -> int:
    return len(re.findall(rb"<(?:Version|DeleteMarker)>", moto.ask("GET", f"/{bucket}?versions")))


def test_what_a_recovery_needs_is_locked_and_the_rest_goes(moto: Moto, credentials: Path, tmp_path: Path) -> None:
    bucket = moto.new_bucket(lock=True)
    objects = open_objects(s3_url(moto, credentials, bucket, more="&lock-days=3"))
    probe(objects)
    assert versions(moto, bucket) == 0, "a probe leaves nothing, not even versions"
    path = tmp_path / "spooled"
    path.write_bytes(b"file")
    objects.put(SEGMENT, b"data")
    objects.put_file(KEY, path)
    for key in (SEGMENT, KEY):
        with pytest.raises(Locked) as raised:
            objects.delete(key)
        assert raised.value.code == "store.locked"
        until = datetime.fromisoformat(raised.value.details["until"])
        assert timedelta(days=2.9) < until - datetime.now(UTC) < timedelta(days=3.1)
        with pytest.raises(AlreadyExists):
            objects.put(key, b"other")
    assert objects.get(SEGMENT) == b"data"
    assert objects.get(KEY) == b"file"
    for content in (b"1", b"2", b"3"):
        objects.put("machines/a/lease/x/y", content, if_absent=False)
    objects.delete("machines/a/lease/x/y")
    with pytest.raises(NotFound):
        objects.get("machines/a/lease/x/y")
    objects.delete("machines/a/none")
    assert versions(moto, bucket) == 2


def test_the_bucket_itself_refuses(moto: Moto, credentials: Path) -> None:
    """Whoever asks it, with whatever client."""
    bucket = moto.new_bucket(lock=True)
    objects = open_objects(s3_url(moto, credentials, bucket, more="&lock-days=3&lock-mode=compliance"))
    objects.put(SEGMENT, b"data")
    listed = moto.ask("GET", f"/{bucket}?versions").decode()
    version = re.search(r"<VersionId>([^<]+)</VersionId>", listed)
    assert version is not None
    with pytest.raises(AssertionError, match="403"):
        moto.ask("DELETE", f"/{bucket}/some/prefix/{SEGMENT}?versionId={version[1]}")
    assert objects.get(SEGMENT) == b"data"


def test_a_lock_that_the_bucket_sees_and_we_do_not_is_one(moto: Moto, credentials: Path) -> None:
    """The clocks differ, or the credentials may not read a retention."""
    proxy = Proxy(moto.netloc)
    objects = open_objects(s3_url(moto, credentials, moto.new_bucket(lock=True), proxy.netloc, "&lock-days=3"))
    objects.put("digests", b"data")
    proxy.fail("DELETE", 403)
    with pytest.raises(Locked):
        objects.delete("digests")
    objects.delete("digests")
    assert list(objects.list("")) == []
    proxy.close()


def test_a_locked_put_whose_answer_was_lost_is_ours(moto: Moto, credentials: Path) -> None:
    proxy = Proxy(moto.netloc)
    bucket = moto.new_bucket(lock=True)
    opened = open_objects(s3_url(moto, credentials, bucket, proxy.netloc, "&lock-days=3"))
    assert isinstance(opened, Retrying)
    proxy.fail("PUT", LOSE_ANSWER)
    Retrying(opened.inner, first=0.01).put(SEGMENT, b"data")
    assert opened.get(SEGMENT) == b"data"
    assert versions(moto, bucket) == 1
    proxy.close()


def test_a_bucket_without_object_lock_says_so(moto: Moto, credentials: Path) -> None:
    objects = open_objects(s3_url(moto, credentials, moto.new_bucket(), more="&lock-days=3"))
    with pytest.raises(StoreError):
        objects.put(SEGMENT, b"data")


def test_points_are_written_and_read_in_a_locked_bucket(moto: Moto, credentials: Path, tmp_path: Path) -> None:
    objects = open_objects(s3_url(moto, credentials, moto.new_bucket(lock=True), more="&lock-days=3"))
    store = MachineStore(objects, KEYS)
    store.create_timeline(T1)
    data = blocks(1, 8)
    point = add_point(store.writer(T1, "one"), tmp_path, None, [("disk0", 0, data)], {"disk0": len(data)})
    assert read_all(store, point) == {"disk0": data}
