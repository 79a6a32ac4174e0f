"""A connection's bucket on a real server: what goes up comes down, and what can be said of it in between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support.fault_proxy import Answer, fault_proxy
from support.upload_sessions import upload_sessions

from airflow_provider_llmbatch.adapters.http import TransportSettings
from airflow_provider_llmbatch.adapters.vertex import resumable
from airflow_provider_llmbatch.adapters.vertex.storage import Bucket, StoredObject
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    BatchInputError,
    ConnectionSettingsError,
    NotFoundError,
    RequestRefusedError,
    UnexpectedAnswerError,
)

if TYPE_CHECKING:
    from adapters.vertex.conftest import OpenBucket
    from support.gcs import RunningStorage

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("my-bucket", "gs://my-bucket/x"),
        ("gs://my-bucket", "gs://my-bucket/x"),
        ("gs://my-bucket/", "gs://my-bucket/x"),
        (" gs://my.bucket_1/a/b ", "gs://my.bucket_1/a/b/x"),
        ("gs://my-bucket/a/", "gs://my-bucket/a/x"),
    ],
)
def test_a_bucket_is_named_in_each_of_the_usual_ways(open_bucket: OpenBucket, address: str, uri: str) -> None:
    assert open_bucket(address).uri("x") == uri


@pytest.mark.parametrize(
    "address", ["", "gs://", "s3://bucket", "bucket/prefix", "gs://Bucket", "gs://b/a*", "gs://bkt/a//b", "https://b"]
)
def test_what_is_no_bucket_is_refused(open_bucket: OpenBucket, address: str) -> None:
    with pytest.raises(ConnectionSettingsError) as refused:
        open_bucket(address)
    assert str(refused.value) == (
        f"The bucket {address!r} of this connection is none: it is gs://bucket, gs://bucket/prefix, or the name of "
        "the bucket alone (lower-case letters, digits, dots, dashes and underscores). Nothing was sent. Mend the "
        "connection."
    )


def test_an_object_is_kept_with_what_is_said_of_it(open_bucket: OpenBucket, gcs: RunningStorage, bucket: str) -> None:
    store = open_bucket(f"gs://{bucket}/team")
    uploaded = store.upload("files/1/in.jsonl", iter([b"hello ", b"", b"world"]), metadata={"model": "g", "ü": "é"})
    assert uploaded == StoredObject(
        name="files/1/in.jsonl",
        uri=f"gs://{bucket}/team/files/1/in.jsonl",
        bytes=11,
        created_at=uploaded.created_at,
        metadata={"model": "g", "ü": "é"},
        generation=uploaded.generation,
        crc32c="yZRlqg==",
    )
    assert (int(uploaded.generation) > 0, abs(uploaded.created_at - time.time()) < 60) == (True, True)
    assert store.stat("files/1/in.jsonl") == store.stat(uploaded.uri) == uploaded
    assert (
        gcs.content(bucket, "team/files/1/in.jsonl") == b"".join(store.download("files/1/in.jsonl")) == b"hello world"
    )
    assert gcs.stat(bucket, "team/files/1/in.jsonl")["contentType"] == "application/jsonl"


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, MIB - 1, MIB, MIB + 1, 5 * MIB // 2])
def test_any_size_goes_up_and_comes_down(
    open_bucket: OpenBucket, bucket: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(resumable, "CHUNK_BYTES", MIB)
    content = bytes(n * 7 % 251 for n in range(1009)) * (size // 1009 + 1)
    store = open_bucket(bucket)
    blocks = (content[at : min(at + 100_000, size)] for at in range(0, size, 100_000))
    assert store.upload("x", blocks, metadata={}).bytes == size
    assert b"".join(store.download("x")) == content[:size]


def test_names_may_hold_what_paths_may_not(open_bucket: OpenBucket, bucket: str) -> None:
    store = open_bucket(bucket)
    name = "files/a b/ü %2F&=+.jsonl"
    store.upload(name, iter([b"x"]), metadata={})
    assert [stored.name for stored in store.list("files/")] == [name]
    assert b"".join(store.download(f"gs://{bucket}/{name}")) == b"x"
    store.delete(name)
    assert list(store.list()) == []


@pytest.mark.parametrize("name", ["", "gs://bucket/x", "a*b", "a?", "line\nend"])
def test_a_name_that_no_object_may_have_is_refused(open_bucket: OpenBucket, bucket: str, name: str) -> None:
    with pytest.raises(BatchInputError, match="is no name for an object of gs://"):
        open_bucket(bucket).upload(name, iter([b"x"]), metadata={})


def test_an_upload_replaces_nothing(open_bucket: OpenBucket, gcs: RunningStorage, bucket: str) -> None:
    gcs.put(bucket, "x", b"the first")
    with upload_sessions(gcs) as front, pytest.raises(RequestRefusedError) as refused:
        open_bucket(bucket, storage_url=front.url).upload("x", iter([b"the second"]), metadata={})
    assert refused.value.status_code == 412
    assert gcs.content(bucket, "x") == b"the first"


def test_a_listing_goes_on_over_pages_and_stops_at_its_limit(
    open_bucket: OpenBucket, gcs: RunningStorage, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_llmbatch.adapters.vertex.storage._PER_PAGE", 2)
    for name in ("p/a", "p/b", "p/c", "p/d", "p/e", "q/f"):
        gcs.put(bucket, name, b"x")
    store = open_bucket(f"gs://{bucket}/p")
    assert [stored.name for stored in store.list()] == ["a", "b", "c", "d", "e"]
    assert [stored.name for stored in store.list(limit=3)] == ["a", "b", "c"]
    assert [stored.name for stored in store.list("d")] == ["d"]
    assert [(stored.name, stored.uri) for stored in store.list(f"gs://{bucket}/q/")] == [("q/f", f"gs://{bucket}/q/f")]
    assert [list(store.list("nothing")), list(store.list(limit=0))] == [[], []]


def test_a_page_that_leads_back_to_itself_ends_the_listing(open_bucket: OpenBucket) -> None:
    with fault_proxy() as server:
        server.rule("GET", "/o$", Answer(200, b'{"nextPageToken": "again"}'), times=3)
        assert list(open_bucket("bkt", storage_url=server.url).list()) == []
    assert len(server.requests) == 2


def test_an_object_that_is_not_there_is_not_found(open_bucket: OpenBucket, bucket: str) -> None:
    store = open_bucket(bucket)
    for look in (store.stat, store.delete, lambda name: list(store.download(name))):
        with pytest.raises(NotFoundError, match=f"asked to look up gs://{bucket}/nowhere|delete gs://{bucket}/nowhere"):
            look("nowhere")


def test_a_bucket_that_is_not_there_says_what_to_mend(open_bucket: OpenBucket) -> None:
    store = open_bucket("no-such-bucket")
    for do in (lambda: store.upload("x", iter([b"x"]), metadata={}), lambda: list(store.list())):
        with pytest.raises(ConnectionSettingsError) as refused:
            do()
        assert (
            "There is no bucket gs://no-such-bucket, or none that this identity may see. Mend the connection's bucket, "
            "or create it where the connection's location can use it."
        ) in str(refused.value)


def test_a_bucket_that_is_gone_is_told_from_an_object_that_is(open_bucket: OpenBucket) -> None:
    with fault_proxy() as server:
        said = b'{"error": {"code": 404, "message": "The specified bucket does not exist."}}'
        server.rule("GET", "/o/x$", Answer(404, said))
        with pytest.raises(ConnectionSettingsError, match="There is no bucket gs://bkt"):
            open_bucket("bkt", storage_url=server.url).stat("x")


def test_an_identity_without_rights_is_told_which_role_is_missing(open_bucket: OpenBucket) -> None:
    said = b'{"error": {"code": 403, "message": "sa@p does not have storage.objects.create access."}}'
    with fault_proxy() as server:
        server.rule("POST", "/upload", Answer(403, said))
        server.rule("GET", "/o", Answer(403, said), times=None)
        store = open_bucket("bkt", storage_url=server.url)
        looks = (lambda: store.stat("x"), lambda: list(store.list()), lambda: list(store.download("x")))
        for do in (lambda: store.upload("x", iter([b"x"]), metadata={}), *looks):
            with pytest.raises(AccessRefusedError) as refused:
                do()
            message = str(refused.value)
            assert "sa@p does not have storage.objects.create access" in message
            assert (
                "need the role Storage Object Admin (roles/storage.objectAdmin) on gs://bkt: give it to the "
                "identity of this connection, and to Vertex AI's service agent "
                "(service-PROJECT_NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com), which reads the input and writes "
                "the predictions."
            ) in message


def test_something_else_than_cloud_storage_is_recognised(open_bucket: OpenBucket) -> None:
    with fault_proxy() as server:
        server.rule("GET", "/o/page$", Answer(200, b"<html>", {"Content-Type": "text/html"}))
        server.rule("GET", "/o/json$", Answer(200, b'{"ok": true}'))
        server.rule("GET", "/o/list$", Answer(200, b"[]"))
        server.rule("POST", "/upload", Answer(200, b"{}"))
        store = open_bucket("bkt", storage_url=server.url, transport=TransportSettings(max_attempts=1))
        for do in (
            *(lambda n=n: store.stat(n) for n in ("page", "json", "list")),
            lambda: store.upload("x", iter([]), metadata={}),
        ):
            with pytest.raises(UnexpectedAnswerError, match="something else"):
                do()


def test_an_object_that_is_stored_compressed_is_not_read_unchecked(open_bucket: OpenBucket) -> None:
    said = b'{"name": "x", "size": "9", "timeCreated": "2026-01-01T00:00:00Z", "contentEncoding": "gzip"}'
    with fault_proxy() as server:
        server.rule("GET", "/o/x$", Answer(200, said))
        with pytest.raises(RequestRefusedError, match=r"is stored compressed \(Content-Encoding gzip\)"):
            list(open_bucket("bkt", storage_url=server.url).download("x"))


@pytest.mark.parametrize("url", ["127.0.0.1:{port}", "http://127.0.0.1:{port}/"])
def test_the_emulator_that_googles_clients_would_use_is_used(
    gcs: RunningStorage, bucket: str, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url.format(port=gcs.url.rpartition(":")[2]))
    store = Bucket(bucket, authorization=None, transport=TransportSettings())
    store.upload("x", iter([b"x"]), metadata={})
    store.close()
    assert gcs.names(bucket) == ["x"]


def test_a_storage_url_that_is_none_is_refused(open_bucket: OpenBucket) -> None:
    with pytest.raises(
        ConnectionSettingsError, match=r"The storage URL 'nowhere' is not of the form https://host:port"
    ):
        open_bucket("bkt", storage_url="ftp://ann:secret@nowhere")


def test_every_call_carries_the_token_of_the_moment(open_bucket: OpenBucket, gcs: RunningStorage, bucket: str) -> None:
    class Numbered:
        count = 0
        remedy = "mend it"

        def headers(self) -> dict[str, str]:
            self.count += 1
            return {"Authorization": f"Bearer token-{self.count}"}

        def refused(self) -> None:
            raise AssertionError("no token was refused")

    with fault_proxy(gcs.url) as proxy:
        store = open_bucket(bucket, storage_url=proxy.url, authorization=Numbered())
        store.upload("x", iter([b"x"]), metadata={})
        list(store.download("x"))
    assert [(call.method, call.headers["authorization"]) for call in proxy.requests] == [
        ("POST", "Bearer token-1"),
        ("PUT", "Bearer token-2"),
        ("GET", "Bearer token-3"),
        ("GET", "Bearer token-4"),
    ]
