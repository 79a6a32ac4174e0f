"""Google's token endpoints on loopback: a real server that checks what it is shown.

It knows service accounts by the public half of their keys, and who may act as whom::

    with google_tokens() as google:
        key = google.new_key("reader@my-project.iam.gserviceaccount.com")   # the JSON that a console hands out
        ...
        assert google.issued == {"test-token-1": "reader@my-project.iam.gserviceaccount.com"}

``POST /token`` takes ``jwt-bearer`` assertions (RFC 7523), refresh tokens, and tokens to exchange (RFC 8693);
``POST /v1/projects/-/serviceAccounts/ACCOUNT:generateAccessToken`` takes a bearer token that was issued here;
``GET /computeMetadata/v1/…`` is a machine's metadata server, where tests attach an account to it. As a proxy it takes
``CONNECT`` to any host and plays that host itself, with a certificate of ``authority``.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import trustme

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_AUDIENCE = "https://oauth2.googleapis.com/token"
_ACCOUNTS = "/v1/projects/-/serviceAccounts/"
_METADATA = "/computeMetadata/v1"
_NO_ACCOUNT = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."


@dataclass(frozen=True)
class TokenRequest:
    """:param asked: Fields of the form, the claims of an assertion, or the JSON, of who asked for a token."""

    host: str
    path: str
    asked: Mapping[str, Any]


@dataclass
class GoogleTokens:
    """:param lifetime: Seconds.
    :param attached: The account of the machine whose metadata server this is; ``None``: it is no such machine.
    :param acting: Which accounts an account may act as directly.
    :param issued: Whose each token is, in order.
    """

    url: str = ""
    lifetime: int = 3600
    attached: str | None = None
    acting: dict[str, set[str]] = field(default_factory=dict)
    issued: dict[str, str] = field(default_factory=dict)
    requests: list[TokenRequest] = field(default_factory=list)
    _public_keys: dict[str, rsa.RSAPublicKey] = field(default_factory=dict)
    _refresh_tokens: dict[str, str] = field(default_factory=dict)
    _subjects: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def new_key(self, account: str, *, project: str = "my-project", token_uri: str | None = None) -> dict[str, str]:
        """Of a service account, as JSON; those that it had before are not accepted any more."""
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._public_keys[account] = private.public_key()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": project,
            "private_key_id": "key-of-a-test",
            "private_key": pem.decode(),
            "client_email": account,
            "client_id": "1234567890",
            "token_uri": token_uri or f"{self.url}/token",
        }

    def new_user(self, name: str) -> dict[str, str]:
        """What ``gcloud auth application-default login`` leaves behind, as JSON."""
        self._refresh_tokens[f"refresh-token-of-{name}"] = name
        return {
            "type": "authorized_user",
            "client_id": "client-of-a-test",
            "client_secret": "client-secret-of-a-test",
            "refresh_token": f"refresh-token-of-{name}",
            "token_uri": f"{self.url}/token",
        }

    def new_subject(self, name: str) -> str:
        """A token of another identity provider that is trusted here."""
        self._subjects[f"subject-token-of-{name}"] = name
        return f"subject-token-of-{name}"

    def forget_key(self, account: str) -> None:
        del self._public_keys[account]

    def tokens_of(self, account: str) -> list[str]:
        return [token for token, owner in self.issued.items() if owner == account]

    def granted(self, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """What ``/token`` answers."""
        if form.get("grant_type") == _JWT_BEARER:
            account, problem = self._signer_of(form.get("assertion", ""))
        else:
            known = self._subjects if form.get("grant_type") == _EXCHANGE else self._refresh_tokens
            account = known.get(form.get("subject_token") or form.get("refresh_token") or "")
            problem = "Bad Request"
        if account is None:
            return 400, {"error": "invalid_grant", "error_description": problem}
        token = {"access_token": self._issue(account), "expires_in": self.lifetime, "token_type": "Bearer"}
        return 200, {**token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}

    def acted(self, account: str, bearer: str, delegates: list[str]) -> tuple[int, dict[str, Any]]:
        """What ``generateAccessToken`` answers."""
        chain = [self.issued.get(bearer), *(name.rpartition("/")[2] for name in delegates), account]
        may = all(follower in self.acting.get(str(leader), ()) for leader, follower in pairwise(chain))
        if not may:
            return 403, {"error": {"code": 403, "message": _NO_ACCOUNT, "status": "PERMISSION_DENIED"}}
        ends = datetime.fromtimestamp(time.time() + self.lifetime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return 200, {"accessToken": self._issue(account), "expireTime": ends}

    def of_machine(self, path: str) -> object:
        """What the metadata server answers; a text is no JSON."""
        token = {"access_token": "", "expires_in": self.lifetime, "token_type": "Bearer"}
        if path.endswith("/token"):
            token["access_token"] = self._issue(str(self.attached))
            return token
        if path.endswith("/project/project-id"):
            return "machine-project"
        account = {"email": self.attached, "scopes": ["https://www.googleapis.com/auth/cloud-platform"], "aliases": []}
        return account if "/service-accounts/" in path else ""

    def _issue(self, account: str) -> str:
        with self._lock:
            token = f"test-token-{len(self.issued) + 1}"
            self.issued[token] = account
        return token

    def _signer_of(self, assertion: str) -> tuple[str | None, str]:
        head, claims_text, signature = (assertion + "..").split(".")[:3]
        claims = json.loads(_decoded(claims_text))
        key = self._public_keys.get(claims["iss"])
        if key is None:
            return None, "Invalid grant: account not found"
        try:
            key.verify(_decoded(signature), f"{head}.{claims_text}".encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return None, "Invalid JWT Signature."
        if claims["aud"] != _AUDIENCE or not claims["iat"] - 60 <= time.time() < claims["exp"]:
            return None, "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
        return (claims["iss"], "") if claims.get("scope") else (None, "Invalid OAuth scope or ID token audience.")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _handler_of(google: GoogleTokens, authority: trustme.CA | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            assert authority is not None, "a proxy that plays other hosts needs an authority"
            host = self.path.partition(":")[0]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(host).configure_cert(context)
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            try:
                self.connection = context.wrap_socket(self.connection, server_side=True)
            except OSError:
                return  # a client that trusts no authority of tests
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)
            self.close_connection = False

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            path = urlsplit(self.path).path
            if path.startswith(_ACCOUNTS):
                asked = json.loads(body)
                bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
                account = path.removeprefix(_ACCOUNTS).partition(":")[0]
                answer = google.acted(account, bearer, asked.get("delegates") or [])
            else:
                asked = {name: values[-1] for name, values in parse_qs(body).items()}
                answer = google.granted(asked)
            self._note(asked)
            self._answer(*answer)

        def do_GET(self) -> None:
            self._note(dict(self.headers))
            is_machine = google.attached is not None and self.headers.get("metadata-flavor") == "Google"
            path = urlsplit(self.path).path
            self._answer(*((200, google.of_machine(path)) if is_machine else (404, {})))

        def _note(self, asked: Mapping[str, Any]) -> None:
            google.requests.append(TokenRequest(self.headers.get("host", ""), urlsplit(self.path).path, asked))

        def _answer(self, status: int, answer: object) -> None:
            is_text = isinstance(answer, str)
            body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if is_text else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            self.wfile.write(body)

        @override
        def finish(self) -> None:
            super().finish()
            self.connection.close()  # of a tunnel, which the server knows nothing of

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def google_tokens(authority: trustme.CA | None = None) -> Iterator[GoogleTokens]:
    """Serve for the time of a block."""
    google = GoogleTokens()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(google, authority)) as server:
        server.daemon_threads = True
        google.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield google
        finally:
            server.shutdown()
            thread.join(5)
