"""The way to a provider: one httpx client, with time-outs, retries, Retry-After, errors in our words, and no secret
in any.

httpx, because Airflow itself runs on it, so it costs no import and no dependency; and because it streams both ways.

What may be repeated is the caller's to say: ``repeat=False`` gives a call exactly one attempt that may have reached the
provider. Attempts that certainly did not reach it, and those it asked to bring later (429), are repeated all the same.
"""

from __future__ import annotations

import random
import ssl
import time
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import httpx

from airflow_provider_llmbatch import __version__
from airflow_provider_llmbatch.adapters.backpressure import numbers_of
from airflow_provider_llmbatch.adapters.refusals import Answer, error_of, retry_after_of
from airflow_provider_llmbatch.errors import (
    BrokenTransferError,
    ConnectionSettingsError,
    LLMBatchError,
    RateLimitError,
    UnavailableError,
    UnexpectedAnswerError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import JsonValue

AnswerT = TypeVar("AnswerT")

BLOCK_BYTES: Final = 256 * 1024
"""How much of a file is in memory at a time."""

_FIRST_DELAY: Final = 0.5
_LONGEST_DELAY: Final = 8.0
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_REQUEST_IDS: Final = ("apim-request-id", "x-request-id", "x-ms-request-id")  # Azure sends the first, and may the last
_SECRETS_KEPT: Final = 8  # an hour each, or an attempt each where all are refused
_SHORTEST_SECRET: Final = 6  # shorter ones, such as "none" for a keyless server, would blot out innocent words


@dataclass(frozen=True)
class TransportSettings:
    """How to reach a provider.

    :param ca_bundle: PEM file (or folder of hashed certificates) to trust instead of the public authorities.
    :param proxy: URL of an HTTP proxy; without it the usual environment variables count.
    :param connect_timeout: Seconds to wait for a connection.
    :param timeout: Seconds to wait for each single read or write, not for a whole transfer.
    :param max_attempts: How often a call that is safe to repeat is made.
    :param longest_retry_after: Seconds that a call may sleep because the provider says so; above, it raises.
    """

    ca_bundle: str | None = None
    proxy: str | None = field(default=None, repr=False)  # may hold a password
    connect_timeout: float = 10.0
    timeout: float = 60.0
    max_attempts: int = 5
    longest_retry_after: float = 60.0


@dataclass(frozen=True)
class Call:
    """One call of a provider's API.

    :param action: What it does, to complete "asked to …" in an error: ``look up batch_abc``.
    :param body: Gives the body anew for each attempt; ``None`` for a call without one.
    :param repeat: Whether an attempt that may have reached the provider is repeated.
    :param conflict_passes: Whether a conflict (409) is worth a repeat: another call is in the way, and will end.
    :param successes: Statuses outside 200 to 299 that are no errors here.
    """

    method: str
    path: str
    action: str
    params: Mapping[str, str] | None = None
    json: JsonValue = None
    headers: Mapping[str, str] | None = None
    body: Callable[[], Iterator[bytes]] | None = None
    repeat: bool = True
    conflict_passes: bool = True
    successes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Reply:
    """The answer to a call that went well.

    :param headers: Their names in any case.
    """

    status_code: int
    headers: Mapping[str, str]
    body: bytes


class Authorization(Protocol):
    """Headers that change in the course of a day. Safe to use from several threads."""

    def headers(self) -> Mapping[str, str]:
        """For one attempt, asked for just before it; a value with its scheme in front (``Bearer …``) is a secret.

        :raises LLMBatchError: There are none to be had; nothing was sent.
        """

    def refused(self) -> None:
        """The provider did not accept the last ones: get others for the next attempt."""

    @property
    def remedy(self) -> str:
        """What to mend if the provider accepts none, to complete "A retry would be refused again: …"."""


class HttpClient:
    """A provider's base URL and headers, and how to call it. Safe to use from several threads.

    :param title: The provider's name in messages.
    :param headers: Sent with each call.
    :param params: Sent in the query of each call.
    :param authorization: Gives more headers for each attempt.
    :param rights: What to do if they are accepted but not allowed to make a call (403), to complete the same words as
        their ``remedy``; without it, what holds for every provider.
    :param secrets: What must never stand in a message, even if the provider itself writes it there.
    :param sleep: Waits between attempts; replaced in tests only.
    """

    def __init__(
        self,
        base_url: str,
        *,
        title: str,
        headers: Mapping[str, str],
        settings: TransportSettings,
        params: Mapping[str, str] | None = None,
        authorization: Authorization | None = None,
        rights: str | None = None,
        secrets: tuple[str, ...] = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.title = title
        self._settings = settings
        self._sleep = sleep
        self._authorization = authorization
        self._remedies: dict[int, str | None] = {
            HTTPStatus.UNAUTHORIZED: authorization.remedy if authorization else None,
            HTTPStatus.FORBIDDEN: rights,
        }
        self._last_secrets: tuple[str, ...] = ()
        check_proxy(settings.proxy)
        known = (*secrets, *passwords_of(base_url), settings.proxy, *passwords_of(settings.proxy))
        self._secrets = tuple(secret for secret in known if secret and len(secret) >= _SHORTEST_SECRET)
        try:
            self._client = httpx.Client(
                base_url=base_url.rstrip("/") + "/",
                headers={"User-Agent": f"airflow-provider-llmbatch/{__version__}", **headers},
                params=params,
                verify=ssl_context(settings.ca_bundle),
                proxy=settings.proxy,
                timeout=httpx.Timeout(settings.timeout, connect=settings.connect_timeout),
                follow_redirects=False,  # a redirect to another host would carry the key along
            )
        except (httpx.InvalidURL, ValueError, ImportError) as error:  # ImportError: SOCKS needs another package
            problem = f"{type(error).__name__}: {error}"
        else:
            return
        raise ConnectionSettingsError(
            self.redacted(f"This connection cannot be used: {problem}. Mend its base URL, proxy or headers.")
        )

    def close(self) -> None:
        self._client.close()

    def redacted(self, text: str) -> str:
        """The text without any secret of this connection."""
        for secret in (*self._last_secrets, *self._secrets):
            text = text.replace(secret, "***")
        return text

    def pause(self, seconds: float) -> None:
        """Sleep, as between two attempts."""
        self._sleep(seconds)

    def send(self, call: Call) -> bytes:
        """Make a call and return the answer's body; raises as ``exchange`` does."""
        return self.exchange(call).body

    def exchange(self, call: Call) -> Reply:
        """Make a call and return the whole answer.

        :raises LLMBatchError: As ``errors`` describes. If it is an ``UnavailableError``, ``reached`` tells whether the
            provider may have acted.
        """
        return self.until_answered(call, lambda: self._attempt(call))

    def until_answered(self, call: Call, attempt: Callable[[], AnswerT]) -> AnswerT:
        """Make a call by other means than this client's own, and again as far as the call may be repeated.

        :param attempt: Raises what ``check`` and ``unreachable`` make of its failures.
        """
        failures = 0
        while True:
            try:
                return attempt()
            except LLMBatchError as error:
                failures += 1
                is_final = error.status_code == HTTPStatus.CONFLICT and not call.conflict_passes
                if is_final or not (call.repeat or _certainly_not_acted_on(error)):
                    raise
                self._wait_or_raise(error, failures)

    def stream(self, call: Call) -> Iterator[bytes]:
        """Stream the body of an answer in blocks; a transfer that breaks off goes on at the byte where it ended.

        The content must not change between attempts, which holds for files at every provider: they are written once.
        """
        received = 0
        failures = 0
        while True:
            before = received
            problem: LLMBatchError | None = None
            try:
                for block in self._blocks(call, received):
                    received += len(block)
                    yield block
            except UnavailableError as error:
                problem = error
            except (httpx.TransportError, httpx.DecodingError) as error:
                problem = self._broken_off(call, error, received)
            if problem is None:
                return
            failures = 1 if received > before else failures + 1
            self._wait_or_raise(problem, failures)

    def _broken_off(
        self, call: Call, failure: httpx.TransportError | httpx.DecodingError, received: int
    ) -> LLMBatchError:
        if isinstance(failure, _NEVER_SENT) and not received:
            return self.unreachable(call, failure)
        return BrokenTransferError(
            self.redacted(
                f"{self.title} broke off after {received:,} bytes when asked to {call.action} ({_named(failure)}). "
                "Nothing was lost at the provider, and a retry starts over."
            ),
            reached=not isinstance(failure, _NEVER_SENT),
        )

    def _blocks(self, call: Call, offset: int) -> Iterator[bytes]:
        # Ranges count the bytes on the wire, so an answer must not be compressed.
        headers = {**self.headers(call), "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._client.stream(call.method, call.path.lstrip("/"), params=call.params, headers=headers) as response:
            if offset and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # everything had arrived; only the end was not seen
            if not response.is_success:
                response.read()
            self.check(call, response)
            starts_at = _start_of_range(response)
            if starts_at > offset:
                raise UnexpectedAnswerError(
                    f"{self.title} sent bytes from {starts_at} on when asked for those from {offset} on. A retry "
                    "starts over; nothing was billed by it."
                )
            skip = offset - starts_at  # a server without ranges sends the file from its start
            # As they arrive: blocks of a fixed size would lose what has arrived of the one that breaks off.
            for block in response.iter_bytes():
                if skip >= len(block):
                    skip -= len(block)
                    continue
                yield block[skip:]
                skip = 0

    def _attempt(self, call: Call) -> Reply:
        request = self._client.build_request(
            call.method,
            call.path.lstrip("/"),
            params=call.params,
            json=call.json,
            headers=self.headers(call),
            content=call.body() if call.body else None,
        )
        try:
            response = self._client.send(request)
        except httpx.TransportError as error:
            failure = error
        except httpx.DecodingError as error:
            failure = httpx.RemoteProtocolError(str(error))
        else:
            self.check(call, response)
            return Reply(response.status_code, response.headers, response.content)
        # Outside the except block: the foreign error could carry a secret in its text, so it is not chained.
        raise self.unreachable(call, failure)

    def headers(self, call: Call) -> dict[str, str]:
        """What to send with one attempt of a call besides the client's own headers; known as secrets from now on."""
        fresh = dict(self._authorization.headers()) if self._authorization else {}
        # A server may quote them without the scheme in front, and late: after a 401 or two, those of earlier attempts.
        new = tuple(value.rpartition(" ")[2] for value in fresh.values() if " " in value)
        if new and not set(new) <= set(self._last_secrets):
            self._last_secrets = (*new, *self._last_secrets)[:_SECRETS_KEPT]
        return {**fresh, **(call.headers or {})}

    def check(self, call: Call, response: httpx.Response) -> None:
        """Raise unless this is a success of the API itself."""
        if response.status_code == HTTPStatus.UNAUTHORIZED and self._authorization:
            self._authorization.refused()
        is_page = response.headers.get("content-type", "").lower().startswith("text/html")
        if (response.is_success or response.status_code in call.successes) and not is_page:
            return
        answer = Answer(
            status_code=response.status_code,
            body=response.content if response.is_stream_consumed else b"",
            request_id=next((response.headers[name] for name in _REQUEST_IDS if name in response.headers), None),
            retry_after=retry_after_of(response.headers),
            is_page=is_page,
            location=response.headers.get("location"),
            queue=numbers_of(response.headers),
        )
        raise error_of(
            answer,
            title=self.title,
            action=call.action,
            redacted=self.redacted,
            remedy=self._remedies.get(response.status_code),
        )

    def unreachable(self, call: Call, failure: httpx.TransportError) -> LLMBatchError:
        """The error for a call that was not answered."""
        text = self.redacted(_named(failure))
        host = self.redacted(str(self._client.base_url))
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return ConnectionSettingsError(
                f"{host} shows a certificate that is not trusted, so {self.title} was not asked to {call.action} "
                f"({text}). Nothing was sent or billed. Set the connection's CA bundle to the authority that signed it."
            )
        if isinstance(failure, httpx.ProxyError) and "407" in text:
            return ConnectionSettingsError(
                f"The proxy on the way to {host} refused its user or password ({text}), so {self.title} was not asked "
                f"to {call.action}. Nothing was sent or billed. Mend the connection's proxy."
            )
        reached = not isinstance(failure, _NEVER_SENT)
        fate = "It may have acted on the call all the same." if reached else "Nothing was sent or billed."
        return UnavailableError(
            f"{self.title} at {host} did not answer when asked to {call.action} ({text}). {fate} A retry may succeed.",
            reached=reached,
        )

    def _wait_or_raise(self, error: LLMBatchError, failures: int) -> None:
        # A conflict passes when the other call ends. Not every 429 is worth a repeat: an empty account is none.
        may_help = isinstance(error, UnavailableError) or error.status_code == HTTPStatus.CONFLICT
        if not may_help or failures >= self._settings.max_attempts:
            raise error
        asked = error.retry_after if isinstance(error, UnavailableError) else None
        if asked is not None and asked > self._settings.longest_retry_after:
            raise error
        # Jitter, so that many tasks that failed together do not come back together.
        backoff = min(_FIRST_DELAY * 2 ** (failures - 1), _LONGEST_DELAY) * random.uniform(0.75, 1.0)
        self._sleep(backoff if asked is None else max(asked, 0.0))


def _certainly_not_acted_on(error: LLMBatchError) -> bool:
    return isinstance(error, RateLimitError) or (isinstance(error, UnavailableError) and not error.reached)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _start_of_range(response: httpx.Response) -> int:
    """Where a body begins in its file (RFC 9110, section 14.4: ``Content-Range: bytes 5-9/10``)."""
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        return 0
    first = response.headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else 0


def passwords_of(url: str | None) -> tuple[str, ...]:
    """The password inside a URL, as it stands there and as it is meant."""
    try:
        written = urlsplit(url or "").password or ""
    except ValueError:
        return ()  # the client refuses the URL itself, a few lines on
    return written, unquote(written)


def check_proxy(url: str | None) -> None:
    """:raises ConnectionSettingsError: It is no URL; it is not quoted."""
    try:
        if url is None or httpx.Proxy(url).url.host:
            return
    except (httpx.InvalidURL, ValueError):
        pass  # whose text quotes the URL
    raise ConnectionSettingsError(
        "The proxy of this connection is no URL of the form http://host:port (it is not shown, since it may hold a "
        "password). Nothing was sent. Mend the connection's proxy."
    )


@lru_cache(maxsize=32)
def ssl_context(ca_bundle: str | None) -> ssl.SSLContext:
    """Made once for a process: each takes 23 ms and a megabyte, which a thousand triggers would feel."""
    if ca_bundle is None:
        return httpx.create_ssl_context()
    path = Path(ca_bundle)
    try:
        # A path that does not exist goes in as a file, to be refused: with neither, the public authorities would count.
        folder = path.is_dir()
        return ssl.create_default_context(cafile=None if folder else ca_bundle, capath=ca_bundle if folder else None)
    except (OSError, ssl.SSLError) as error:
        raise ConnectionSettingsError(
            f"The CA bundle {ca_bundle} of this connection cannot be read ({error}). Nothing was sent or billed."
        ) from error
