"""Who signs for Vertex AI and Cloud Storage: tokens of Google's, through google-auth, imported only when it is used."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from google.auth.credentials import Credentials

    from airflow_provider_llmbatch.adapters.http import TransportSettings

CLOUD_PLATFORM: Final = "https://www.googleapis.com/auth/cloud-platform"


@dataclass(frozen=True)
class Identity:
    """Who asks for tokens; without any of the three keys, application default credentials.

    :param key_path: File with the key of a service account, as JSON.
    :param key_json: The same as text.
    :param config: A credential configuration (workload identity federation), as JSON or as a path.
    :param impersonate: Accounts to act as, one through the other; the last one signs.
    :param scopes: What tokens are for.
    :param quota_project: Whose quota the calls count against.
    :param anonymous: Ask for no token at all, as emulators want it.
    """

    key_path: str | None = None
    key_json: str | None = field(default=None, repr=False)
    config: str | None = field(default=None, repr=False)
    impersonate: tuple[str, ...] = ()
    scopes: tuple[str, ...] = (CLOUD_PLATFORM,)
    quota_project: str | None = None
    anonymous: bool = False


class GoogleAuthorization:
    """The headers of each attempt.

    :param clock: Seconds since 1970; replaced in tests only.
    :raises ConnectionSettingsError: google-auth is not installed.
    """

    def __init__(
        self, identity: Identity, transport: TransportSettings, *, clock: Callable[[], float] = time.time
    ) -> None:
        raise NotImplementedError

    def headers(self) -> Mapping[str, str]:
        raise NotImplementedError

    def refused(self) -> None:
        raise NotImplementedError

    @property
    def credentials(self) -> Credentials:
        """For Google's own clients; the tokens are the same."""
        raise NotImplementedError

    @property
    def project(self) -> str | None:
        """The project that the key, or the environment, belongs to."""
        raise NotImplementedError
