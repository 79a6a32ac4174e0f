"""A service account of the server's own, so that Google's clients sign in to it with a key file as they do to Google.

OAuth 2.0 for service accounts (https://developers.google.com/identity/protocols/oauth2/service-account): a client signs
a statement with the account's key and changes it for a token at the file's ``token_uri``, or sends it as a token
itself, as Google's newer clients do.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from airflow_provider_llmbatch.server.store import open_private

if TYPE_CHECKING:
    from pathlib import Path

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LIFETIME: Final = 3_600
"""Seconds, of a token."""

_EMAIL: Final = "llmbatch-server@{project}.iam.gserviceaccount.com"
_TOKEN_PREFIX: Final = "ya29."  # noqa: S105 - what Google's begin with


class ServiceAccount:
    """One key, kept in the file that clients use; made when there is none.

    :param file: The key file, for its owner only.
    :param url: The server's own, for ``token_uri``; another one than before changes the file, not the key.
    :param project: The project that the file names.
    """

    def __init__(self, file: Path, *, url: str, project: str) -> None:
        self._token_uri = f"{url}/token"
        pem = _kept_key(file) or _new_key()
        key = serialization.load_pem_private_key(pem.encode(), password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError(f"{file} has a key of another kind than RSA.")
        self._public = key.public_key()
        self._secret = hashlib.sha256(pem.encode()).digest()
        self.email = _EMAIL.format(project=project)
        _write(file, {**self._description(project), "private_key": pem})

    def _description(self, project: str) -> dict[str, str]:
        return {
            "type": "service_account",
            "project_id": project,
            "private_key_id": self._secret.hex()[:40],
            "client_email": self.email,
            "client_id": str(int(self._secret.hex()[:16], 16)),
            "token_uri": self._token_uri,
            "universe_domain": "googleapis.com",
        }

    def token_for(self, assertion: str) -> str | None:
        """A token for a statement that the account's key has signed; ``None`` for any other."""
        if not self._is_signed(assertion):
            return None
        claims = {"sub": self.email, "exp": int(time.time()) + LIFETIME}
        return _TOKEN_PREFIX + jwt.encode(claims, self._secret, algorithm="HS256")

    def knows(self, token: str) -> bool:
        """Whether a token is one of ours that has not expired, or a statement that the account's key has signed."""
        if not token.startswith(_TOKEN_PREFIX):
            return self._is_signed(token)
        try:
            claims = jwt.decode(token.removeprefix(_TOKEN_PREFIX), self._secret, algorithms=["HS256"])
        except jwt.PyJWTError:
            return False
        return hmac.compare_digest(str(claims.get("sub")), self.email)

    def _is_signed(self, statement: str) -> bool:
        """Whoever it is meant for: clients name Google's hosts there, or the one they were sent to."""
        try:
            claims: dict[str, Any] = jwt.decode(
                statement,
                self._public,
                algorithms=["RS256"],
                options={"require": ["exp", "iat", "iss"], "verify_aud": False},
            )
        except jwt.PyJWTError:
            return False
        return bool(claims["iss"] == self.email and claims["exp"] - claims["iat"] <= LIFETIME)


def _kept_key(file: Path) -> str | None:
    if not file.exists():
        return None
    pem = json.loads(file.read_text())["private_key"]
    return str(pem)


def _new_key() -> str:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def _write(file: Path, description: dict[str, str]) -> None:
    """Whole, or as it was: a kill in between must not lose the key."""
    new = file.with_suffix(".new")
    with open(new, "w", encoding="utf-8", opener=open_private) as stream:
        json.dump(description, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
