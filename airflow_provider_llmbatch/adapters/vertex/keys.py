"""What stands in a key or a credential configuration of Google's, as credentials of google-auth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.auth.credentials import Credentials

Info = dict[str, Any]
_SECRETS: Final = ("private_key", "private_key_id", "client_secret", "refresh_token")
_KEY_BEGIN: Final = "-----BEGIN"


def read(text_or_path: str) -> Info:
    """The JSON object, whether given as it is or as the path of its file.

    :raises ValueError: It is none; the text is not quoted.
    :raises OSError: The file cannot be read.
    """
    is_text = text_or_path.lstrip().startswith("{")
    text = text_or_path if is_text else Path(text_or_path).read_text(encoding="utf-8-sig")
    try:
        info = json.loads(text)
    except ValueError:
        info = None
    if not isinstance(info, dict):
        # Not chained: json's error holds the whole text.
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - a bad value, not a bad call
    return info


def secrets_of(info: Info) -> tuple[str, ...]:
    """What of it must stand in no message."""
    found = [str(info[name]) for name in _SECRETS if info.get(name)]
    # A parser of keys may quote a line of one.
    lines = [line for text in found for line in text.splitlines() if line and _KEY_BEGIN not in line]
    return (*found, *lines)


def credentials_of(info: Info, scopes: tuple[str, ...]) -> Credentials:
    """Nothing is sent by this.

    :raises ValueError: Something is missing or unknown (google-auth's errors are of that type, or of its own).
    """
    kind = str(info.get("type"))
    make = _MAKERS.get(kind)
    if make is None:
        raise ValueError(f"its type is {kind!r}, and not one of {', '.join(_MAKERS)}")
    return make(info, list(scopes))


def _service_account(info: Info, scopes: list[str]) -> Credentials:
    from google.oauth2 import service_account  # noqa: PLC0415 - an extra

    # As it comes out of forms and environment variables, with line ends written out.
    key = str(info.get("private_key", "")).replace("\\n", "\n")
    return service_account.Credentials.from_service_account_info({**info, "private_key": key}, scopes=scopes)  # type: ignore[no-untyped-call, no-any-return]


def _user(info: Info, scopes: list[str]) -> Credentials:
    from google.oauth2 import credentials  # noqa: PLC0415 - an extra

    del scopes  # a user's refresh token has those that were granted, and asking for others is refused
    return credentials.Credentials.from_authorized_user_info(info)  # type: ignore[no-untyped-call, no-any-return]


def _federated(info: Info, scopes: list[str]) -> Credentials:
    from google.auth import aws, identity_pool, pluggable  # noqa: PLC0415 - an extra

    source = info.get("credential_source") or {}
    if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
        return aws.Credentials.from_info(info, scopes=scopes)  # type: ignore[no-untyped-call, no-any-return]
    if isinstance(source, dict) and source.get("executable") is not None:
        return pluggable.Credentials.from_info(info, scopes=scopes)  # type: ignore[no-untyped-call, no-any-return]
    return identity_pool.Credentials.from_info(info, scopes=scopes)  # type: ignore[no-untyped-call, no-any-return]


_MAKERS: Final[dict[str, Callable[[Info, list[str]], Credentials]]] = {
    "service_account": _service_account,
    "authorized_user": _user,
    "external_account": _federated,
}
