"""Cloud Storage's resumable uploads as Google documents them, before an emulator that stores what they bring::

    with upload_sessions(gcs) as front:
        bucket = Bucket("gs://…", storage_url=front.url, …)

fake-gcs-server does otherwise in what matters when something breaks (see ``gcs.py``). Here bytes that were stored
already are ignored, of a broken request the whole 256 KiB that arrived stay, a session tells how far it has come, also
when it has ended, and a DELETE ends it for good ("Perform resumable uploads", 2026). All else goes to the emulator.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import google_crc32c
import httpx
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.gcs import RunningStorage

_GRAIN = 256 * 1024
_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclass
class Session:
    """:param stored: What arrived so far.
    :param grudging: Store of each request only so much of what it brings, once per number.
    """

    bucket: str
    resource: dict[str, Any]
    stored: bytearray = field(default_factory=bytearray)
    grudging: list[int] = field(default_factory=list)
    answer: bytes | None = None
    cancelled: bool = False


@dataclass
class Front:
    """:param url: What takes the emulator's place.
    :param grudging: For the sessions to come; see ``Session``.
    :param corrupting: Store another byte than was sent, in the next session that ends.
    """

    storage: RunningStorage
    client: httpx.Client
    url: str = ""
    grudging: list[int] = field(default_factory=list)
    corrupting: bool = False
    sessions: dict[str, Session] = field(default_factory=dict)

    def begin(self, bucket: str, resource: dict[str, Any], query: dict[str, list[str]]) -> tuple[int, bytes, str]:
        """Status, body and address of a new session."""
        found = self.call("GET", f"/storage/v1/b/{bucket}")
        if found.status_code != 200:
            return 404, b'{"error": {"code": 404, "message": "The specified bucket does not exist."}}', ""
        if query.get("ifGenerationMatch") == ["0"] and resource["name"] in self.storage.names(bucket, resource["name"]):
            return 412, b'{"error": {"code": 412, "message": "At least one of the pre-conditions did not hold."}}', ""
        name = f"session-{len(self.sessions) + 1}"
        self.sessions[name] = Session(bucket, resource, grudging=self.grudging)
        return 200, b"", f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={name}"

    def take(self, session: Session, span: str, body: bytes, checksum: str) -> tuple[int, bytes]:
        """Store what is new of a request, as far as it arrived; status and body."""
        if session.cancelled:
            return 499, b""
        if session.answer is not None:
            return 200, session.answer
        match = _CONTENT_RANGE.fullmatch(span)
        assert match, span
        start, _, total = match.groups()
        if start is not None:
            assert int(start) <= len(session.stored), "a gap"
            new = body[len(session.stored) - int(start) :]
            if session.grudging:
                new = new[: session.grudging.pop(0)]
            session.stored += new
        if total == "*" or len(session.stored) < int(total):
            # Only whole grains are kept of what is not the end.
            del session.stored[len(session.stored) // _GRAIN * _GRAIN :]
            return 308, b""
        return self._end(session, checksum)

    def _end(self, session: Session, checksum: str) -> tuple[int, bytes]:
        content = bytes(session.stored)
        if self.corrupting:
            self.corrupting, content = False, content[:-1] + b"?"
        crc32c = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
        if checksum and checksum != f"crc32c={crc32c}":
            told = f'Provided CRC32C \\"{checksum}\\" doesn\'t match calculated CRC32C \\"{crc32c}\\".'
            return 400, f'{{"error": {{"code": 400, "message": "{told}"}}}}'.encode()
        kind, resource = (
            session.resource.get("contentType", "text/plain").encode(),
            json.dumps(session.resource).encode(),
        )
        head = b"--edge\r\nContent-Type: application/json\r\n\r\n%s\r\n--edge\r\nContent-Type: %s\r\n\r\n" % (
            resource,
            kind,
        )
        form = b"%s%s\r\n--edge--" % (head, content)
        session.answer = self.call(
            "POST",
            f"/upload/storage/v1/b/{session.bucket}/o?uploadType=multipart",
            form,
            {"content-type": "multipart/related; boundary=edge"},
        ).content
        return 200, session.answer

    def call(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        return self.client.request(method, target, content=body, headers=headers)


class _Handler(BaseHTTPRequestHandler):
    front: Front
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self._serve()

    do_GET = do_POST = do_DELETE = do_PUT  # noqa: N815 - their names

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query, match = parse_qs(parts.query), _UPLOAD.fullmatch(parts.path)
        body, is_whole = self._body()
        if match and "upload_id" in query:
            self._serve_session(self.front.sessions.get(query["upload_id"][0]), body, is_whole=is_whole)
        elif match and self.command == "POST":
            status, answer, location = self.front.begin(match[1], json.loads(body), query)
            self._answer(status, answer, {"Location": f"{self.front.url}{location}"} if location else {})
        else:
            kept = {k: v for k, v in self.headers.items() if k.lower() in ("range", "content-type")}
            found = self.front.call(self.command, self.path, body, kept)
            headers = {k: v for k, v in found.headers.items() if k.lower() in ("content-type", "content-range")}
            self._answer(found.status_code, found.content, headers)

    def _serve_session(self, session: Session | None, body: bytes, *, is_whole: bool) -> None:
        if session is None:
            self._answer(404, b"", {})
        elif self.command == "DELETE":
            session.cancelled = True
            self._answer(499, b"", {})
        elif not is_whole:  # the client is gone: what arrived stays
            span = re.sub(r"/\d+$", "/*", self.headers["content-range"])
            self.front.take(session, span, body, "")
            self.close_connection = True
        else:
            status, answer = self.front.take(
                session, self.headers["content-range"], body, self.headers.get("x-goog-hash", "")
            )
            reached = status == 308 and session.stored
            self._answer(status, answer, {"Range": f"bytes=0-{len(session.stored) - 1}"} if reached else {})

    def _body(self) -> tuple[bytes, bool]:
        """What arrived of it, and whether that is all."""
        length = int(self.headers.get("content-length", 0))
        body = bytearray()
        try:
            while len(body) < length and (block := self.rfile.read1(length - len(body))):  # type: ignore[attr-defined]
                body += block
        except OSError:
            pass
        return bytes(body), len(body) == length

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def upload_sessions(storage: RunningStorage, *, seconds: float = 30) -> Iterator[Front]:
    """Serve for the time of a block; the emulator may take so many seconds to answer."""
    client = httpx.Client(base_url=storage.url, timeout=seconds, trust_env=False)
    front = Front(storage, client)
    with client, ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"front": front})) as server:
        server.daemon_threads = True
        front.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield front
        finally:
            server.shutdown()
            thread.join(5)
