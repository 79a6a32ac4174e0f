"""Who signs for Vertex AI and Cloud Storage: tokens of Google's, through google-auth, imported only when it is used.

A token is shared by the whole process (``tokens.py``). google-auth asks for it over httpx, as everything else of a
connection is asked for: through its proxy, trusting its CA bundle, within its time-outs, and without a second HTTP
client in the process. Credentials live only as long as it takes to get a token, so that a key file that was replaced
counts from the next renewal on.

Facts: google-auth 2.62; what a connection may say: "Google Cloud Connection" of Airflow's Google provider 22.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from typing_extensions import override

from airflow_provider_llmbatch.adapters.tokens import SharedTokens, Token
from airflow_provider_llmbatch.adapters.vertex import keys
from airflow_provider_llmbatch.adapters.vertex.token_calls import TokenCalls
from airflow_provider_llmbatch.errors import (
    AccessRefusedError,
    ConnectionSettingsError,
    LLMBatchError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.auth.credentials import Credentials

    from airflow_provider_llmbatch.adapters.http import TransportSettings

CLOUD_PLATFORM: Final = "https://www.googleapis.com/auth/cloud-platform"

_LONGEST_QUOTE: Final = 500  # characters of Google's words in a message of ours
_SHORTEST_SECRET: Final = 6
_WITHOUT_END: Final = 600.0  # seconds for which a token is used whose end nobody told
_ENVIRONMENT: Final = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CONFIG", "GCE_METADATA_HOST")


T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """Who asks for tokens; with none of the three keys, application default credentials.

    :param key_path: File with a key, as JSON: of a service account as a rule, a user's or a federated one will do.
    :param key_json: The same as text.
    :param config: A credential configuration (workload identity federation), as JSON or as a path.
    :param impersonate: Accounts to act as, one through the other; the last one is who signs.
    :param scopes: What tokens are for.
    :param quota_project: Whose quota the calls count against; by default what the key or the environment says.
    :param anonymous: Send no token at all, as emulators want it.
    """

    key_path: str | None = None
    key_json: str | None = field(default=None, repr=False)
    config: str | None = field(default=None, repr=False)
    impersonate: tuple[str, ...] = ()
    scopes: tuple[str, ...] = (CLOUD_PLATFORM,)
    quota_project: str | None = None
    anonymous: bool = False

    @property
    def key(self) -> str | None:
        """The text or the path of whatever key there is."""
        return self.key_json or self.key_path or self.config

    @property
    def remedy(self) -> str:
        """What to mend if Google does not accept it."""
        if self.anonymous:
            return "take is_anonymous out of the connection, which sends no token"
        if self.key is None:
            remedy = "mend the application default credentials where the task runs, or give the connection a key"
        else:
            where = "" if self.key_path else " in the connection"
            remedy = (
                f"mend the {replace(self, impersonate=())}{where}, such as one that was deleted or has been disabled"
            )
        if self.impersonate:
            remedy += (
                ", or give each account of the impersonation chain the role Service Account Token Creator "
                "(roles/iam.serviceAccountTokenCreator) on the account that it acts as"
            )
        return remedy

    @override
    def __str__(self) -> str:
        ways = {
            "no token": self.anonymous,
            "key": self.key_json,
            f"key file {self.key_path}": self.key_path,
            "credential configuration": self.config,
        }
        way = next((name for name, given in ways.items() if given), "application default credentials")
        return f"{way}, acting as {self.impersonate[-1]}" if self.impersonate else way


def accounts_of(chain: str | Sequence[str] | None) -> tuple[str, ...]:
    """Airflow's ``impersonation_chain``, an account or several with commas between them or as a list."""
    parts = (chain or "").split(",") if chain is None or isinstance(chain, str) else chain
    return tuple(account.strip() for account in parts if account.strip())


@dataclass(frozen=True)
class _GoogleToken(Token):
    quota_project: str | None


_TOKENS: Final[SharedTokens[_GoogleToken]] = SharedTokens()


class GoogleAuthorization:
    """The headers of each attempt. Safe to use from several threads.

    :param clock: Seconds since 1970; replaced in tests only.
    :raises ConnectionSettingsError: google-auth is not installed, or the identity contradicts itself.
    """

    def __init__(
        self, identity: Identity, transport: TransportSettings, *, clock: Callable[[], float] = time.time
    ) -> None:
        _import_google_auth()
        _check(identity)
        self._identity = identity
        self._transport = transport
        self._clock = clock

    def headers(self) -> Mapping[str, str]:
        """For one attempt.

        :raises ConnectionSettingsError: The key cannot be read, or there is none, and no default credentials either.
        :raises AccessRefusedError: Google refuses the key, or the impersonation.
        :raises UnavailableError: Google's token endpoint, or the way to it, is down (``reached=False``).
        """
        if self._identity.anonymous:
            return {}
        token = self._token()
        quota = {"x-goog-user-project": token.quota_project} if token.quota_project else {}
        return {"Authorization": f"Bearer {token.value}", **quota}

    def refused(self) -> None:
        _TOKENS.forget(self._kept_under())

    @property
    def remedy(self) -> str:
        return self._identity.remedy

    @property
    def credentials(self) -> Credentials:
        """For Google's own clients: the same tokens, got the same way; raises in use as ``headers`` does."""
        from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415 - an extra

        if self._identity.anonymous:
            return AnonymousCredentials()  # type: ignore[no-untyped-call]
        return _lent(self)

    @property
    def project(self) -> str | None:
        """Of the account that signs, as its key, its address or the environment says: a default for connections.

        :raises LLMBatchError: As ``headers`` does; a machine may have to be asked, but no token.
        """
        if self._identity.anonymous:
            return None
        if self._identity.impersonate:
            # NAME@PROJECT.iam.gserviceaccount.com
            project, dot, domain = self._identity.impersonate[-1].rpartition("@")[2].partition(".")
            return project if dot and domain == "iam.gserviceaccount.com" else None
        return self._with_credentials(lambda _, project, __: project)

    def _kept_under(self) -> tuple[object, ...]:
        return (self._identity, *map(os.environ.get, _ENVIRONMENT))

    def _token(self) -> _GoogleToken:
        return _TOKENS.get(self._kept_under(), lambda: self._with_credentials(self._refreshed), self._clock)

    def _refreshed(self, credentials: Credentials, _: str | None, calls: TokenCalls) -> _GoogleToken:
        credentials.refresh(calls)  # type: ignore[no-untyped-call]
        expiry: datetime | None = credentials.expiry
        ends = expiry.replace(tzinfo=UTC).timestamp() if expiry else self._clock() + _WITHOUT_END
        quota = self._identity.quota_project or getattr(credentials, "quota_project_id", None)
        return _GoogleToken(str(credentials.token), ends, quota)

    def _with_credentials(self, do: Callable[[Credentials, str | None, TokenCalls], T]) -> T:
        """Do something with credentials that are made for it, and translate what goes wrong."""
        from google.auth.exceptions import GoogleAuthError, TransportError  # noqa: PLC0415 - an extra

        calls = TokenCalls(self._transport)
        failure: Exception
        secrets: tuple[str, ...] = ()
        is_usable = False
        try:
            info = keys.read(self._identity.key) if self._identity.key else None
            secrets = keys.secrets_of(info) if info else ()
            credentials, project = _loaded(self._identity, info, calls)
            is_usable = True
            return do(credentials, project, calls)
        except (GoogleAuthError, ValueError, OSError) as error:
            failure = error
        finally:
            calls.close()
        # Outside the except block: the foreign error could carry a secret, so it is not chained.
        text = _shown(failure, (*secrets, *calls.secrets))
        if not is_usable and not isinstance(failure, TransportError):
            raise self._unusable(text)
        raise self._no_token(text, calls)

    def _unusable(self, text: str) -> LLMBatchError:
        nothing = "Nothing was sent or billed, and nothing was cancelled."
        if self._identity.key is None:
            return ConnectionSettingsError(
                "This connection holds no key, so Google's application default credentials count, and there are none "
                f"to be had ({text}). {nothing} Give the connection a key file, or key JSON; or set "
                "GOOGLE_APPLICATION_CREDENTIALS where the workers and the triggerer run; or run them where Google "
                "attaches a service account."
            )
        return ConnectionSettingsError(
            f"This connection's {self._identity} cannot be used: {text}. {nothing} Mend the connection, or what it "
            "leads to. A key is the JSON that Google Cloud's console hands out for a service account."
        )

    def _no_token(self, text: str, calls: TokenCalls) -> LLMBatchError:
        told = f"Google gave no token to this connection's {self._identity}: {text}."
        if calls.distrusted:
            return ConnectionSettingsError(
                f"{told} The certificate that it shows is not trusted. Nothing was sent or billed. Set the "
                "connection's CA bundle to the authority that signed it."
            )
        if calls.met_an_outage:
            return UnavailableError(
                f"{told} That is an outage of what gives tokens, or of the way to it. Nothing was sent to Vertex AI "
                "or billed. A retry may succeed.",
                reached=False,
            )
        return AccessRefusedError(
            f"{told} Nothing was sent to Vertex AI or billed, and nothing was cancelled. A retry would be refused "
            f"again: {self._identity.remedy}."
        )


def _import_google_auth() -> None:
    try:
        import google.auth  # noqa: F401, PLC0415 - an extra
    except ImportError:
        missing = True
    else:
        missing = False
    if missing:
        raise ConnectionSettingsError(
            "The package google-auth, which gets tokens for Vertex AI, is not installed. Nothing was sent. Run "
            "pip install 'airflow-provider-llmbatch[vertex]' where the workers and the triggerer run."
        )


def _check(identity: Identity) -> None:
    given = {
        "key_path": identity.key_path,
        "key_json": identity.key_json,
        "config": identity.config,
        "anonymous": identity.anonymous,
    }
    ways = [name for name, value in given.items() if value]
    if len(ways) > 1:
        raise ConnectionSettingsError(
            f"This connection says in several ways who calls ({', '.join(ways)}): leave one. Nothing was sent."
        )


def _loaded(identity: Identity, info: keys.Info | None, calls: TokenCalls) -> tuple[Credentials, str | None]:
    """Credentials that have no token yet, and the project they belong to."""
    import google.auth  # noqa: PLC0415 - an extra
    from google.auth import impersonated_credentials  # noqa: PLC0415 - an extra

    source: Credentials
    project: str | None
    if info is None:
        source, project = google.auth.default(scopes=list(identity.scopes), request=calls)  # type: ignore[arg-type]
    else:
        source = keys.credentials_of(info, identity.scopes)
        project = info.get("project_id") or info.get("quota_project_id")
    if not identity.impersonate:
        return source, project
    *through, target = identity.impersonate
    acting = impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
        source_credentials=source,
        target_principal=target,
        delegates=through,
        target_scopes=list(identity.scopes),
        quota_project_id=identity.quota_project,
    )
    return acting, project


def _lent(authorization: GoogleAuthorization) -> Credentials:
    from google.auth import credentials  # noqa: PLC0415 - an extra

    class Lent(credentials.Credentials):
        """Tokens of the authorization, whatever Google's client brings along to ask for them."""

        @override
        def refresh(self, request: object) -> None:
            if self.token and not self.expired:
                authorization.refused()  # a client asks early only for a token that was not accepted
            token = authorization._token()  # noqa: SLF001 - this class is a part of it
            self.token = token.value
            self.expiry = datetime.fromtimestamp(token.expires_on, UTC).replace(tzinfo=None)
            self._quota_project_id = token.quota_project

    return Lent()  # type: ignore[no-untyped-call]


def _shown(failure: Exception, secrets: tuple[str, ...]) -> str:
    """What a foreign error says, without secrets, and with what Google's answer says beside it."""
    what, *more = failure.args or (type(failure).__name__,)
    text = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(what)
    for body in more:
        with suppress(ValueError, TypeError, KeyError):  # only an answer of Google's APIs has this shape
            text = f"{text.rstrip('.:')}: {json.loads(body)['error']['message']}"
    for secret in secrets:
        text = text.replace(secret, "***") if len(secret) >= _SHORTEST_SECRET else text
    return " ".join(text.split())[:_LONGEST_QUOTE].rstrip(".")
