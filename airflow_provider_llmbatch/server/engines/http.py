"""Any server that answers single requests over HTTP as OpenAI does: vLLM, Ollama, llama.cpp.

What may pass is waited for. A server that cannot be reached holds all requests back until it can (the batch's own end
bounds that); one that asks for a rest (429 or 503, Retry-After) gets it from all of them; any other failure costs the
one request an attempt. What is final becomes the request's answer, the server's own words in it.

A request that was sent and whose answer was lost is asked again: single requests are paid with computing time only, and
leave nothing behind at the server.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx
import msgspec
from typing_extensions import override

from airflow_provider_llmbatch import __version__
from airflow_provider_llmbatch.adapters.refusals import retry_after_of
from airflow_provider_llmbatch.server.engines.base import Answer, Engine, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_llmbatch.models import RequestLine

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT: Final = 600.0
"""Seconds for one answer: a long one, from a slow machine, behind a queue."""

_PROBE_TIMEOUT: Final = 2.0
_TICK: Final = 0.5  # seconds between two looks whether an answer is still wanted
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
_RETRIED: Final = frozenset({408, 409, 429})  # and every 5xx
_RESTING: Final = frozenset({429, 503})  # says that the server is busy or still loads, nothing about the request
_SHORTEST_SECRET: Final = 6  # shorter keys, such as "none" for a server without, would blot out innocent words

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class EngineAddressError(ValueError):
    """Raised when the address or the key of an engine cannot work; the message says why, without the key."""


@dataclass(frozen=True)
class Patience:
    """How long one request is tried.

    :param attempts: How often it is asked; busy answers (429, 503) do not count.
    :param seconds: After so long since the first of them no further attempt begins. Time in which the server could not
        be reached at all does not count.
    :param first_delay: Seconds before the second attempt; each further wait is twice as long.
    :param longest_delay: Seconds that a wait grows to, unless the server names a longer one.
    """

    attempts: int = 6
    seconds: float = 1800.0
    first_delay: float = 1.0
    longest_delay: float = 30.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures; jittered, so that those which failed together come back apart."""
        return float(min(self.first_delay * 2 ** min(failures - 1, 16), self.longest_delay)) * random.uniform(0.5, 1.0)


class HttpEngine(Engine):
    """Passes each request on, its body untouched.

    :param base_url: With or without ``/v1`` at its end; the request's ``url`` brings the path.
    :param connections: How many requests may be under way at once.
    :param timeout: Seconds that a server may be silent while an answer is awaited.
    :raises EngineAddressError: The address or the key cannot work.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        connections: int,
        timeout: float = DEFAULT_TIMEOUT,
        patience: Patience | None = None,
    ) -> None:
        self._root = root_of(base_url)
        self._headers = {"Content-Type": "application/json", "User-Agent": f"llmbatch-server/{__version__}"}
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise EngineAddressError("The engine's key holds a line break or a letter outside ASCII.")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._key = (api_key or "").encode()
        self._connections = connections
        self._timeout = timeout
        self._patience = patience or Patience()
        self._gate = _Gate(self._root, self._patience)

    @override
    async def start(self) -> None:
        self._client = httpx.AsyncClient(
            headers=self._headers,
            timeout=httpx.Timeout(self._timeout, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=self._connections, max_keepalive_connections=self._connections),
            # Made apart, since it is to follow SSL_CERT_FILE and SSL_CERT_DIR whatever `trust_env` says of proxies.
            verify=await asyncio.to_thread(httpx.create_ssl_context) if self._root.startswith("https:") else False,
            trust_env=not _is_loopback(self._root),  # the way to a server on this machine leads through no proxy
        )
        await self._look()

    async def _look(self) -> None:
        """Say at the start, and not when the first batch waits, that a server is away or refuses the key."""
        try:
            response = await self._client.get(f"{self._root}/v1/models", timeout=_PROBE_TIMEOUT)
        except _NEVER_SENT as error:
            self._gate.away(error)
        except httpx.RequestError as error:
            log.warning("The engine at %s was silent when asked for its models (%s).", self._root, _named(error))
        else:
            if response.status_code in (401, 403):
                log.warning("The engine at %s refuses the key (%d).", self._root, response.status_code)

    @override
    async def answer(self, request: RequestLine) -> Answer:
        answer = await self.answer_while(request, lambda: True)
        if answer is None:
            raise AssertionError("an answer that is always wanted is never given up")
        return answer

    @override
    async def answer_while(self, request: RequestLine, wanted: Callable[[], bool]) -> Answer | None:
        trial = _Trial(self._patience)
        while await self._gate.passed(wanted):
            trial.begin()
            try:
                response = await self._client.post(self._root + request.url, content=bytes(request.body))
            except _NEVER_SENT as error:
                self._gate.away(error)
                trial.pause()
                continue
            except httpx.RequestError as error:
                self._gate.back()
                answer = refusal(
                    502, "engine_unavailable", f"The engine broke off without an answer ({_named(error)})."
                )
                asked = None
            else:
                self._gate.back()
                answer, asked = self._answer_of(response), retry_after_of(response.headers)
            delay = trial.next_delay(answer, asked)
            if delay is None:
                return answer
            if asked is not None and answer.status_code in _RESTING:
                self._gate.rest(asked)
            if not await _slept(delay, wanted):
                return None
        return None

    def _answer_of(self, response: httpx.Response) -> Answer:
        status, body = response.status_code, response.content
        if response.is_success and _is_object(body):
            return Answer(status, body)
        if len(self._key) >= _SHORTEST_SECRET:
            body = body.replace(self._key, b"***")
        if response.is_success:
            shown = body[:200].decode("utf-8", "replace")
            return refusal(502, "invalid_engine_answer", f"The engine answered {status} with no JSON object: {shown}")
        if response.is_redirect:  # not followed: another host would get the key
            return refusal(421, "engine_redirects", f"The engine redirects ({status}): its address needs mending.")
        return Answer(status, body)

    @override
    async def stop(self) -> None:
        await self._client.aclose()


class _Trial:
    """One request's attempts so far, and whether there is another."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._attempts = self._failures = 0
        self._began: float | None = None

    def begin(self) -> None:
        if self._began is None:
            self._began = time.monotonic()

    def pause(self) -> None:
        """Count no time that the server was away; attempts stay, since the request may be what brings it down."""
        self._began = None

    def next_delay(self, answer: Answer, asked: float | None) -> float | None:
        """Seconds until the next attempt, or ``None`` if this answer is final."""
        status = answer.status_code
        if status < 500 and status not in _RETRIED:
            return None
        if status == 429 and b'"insufficient_quota"' in answer.body:
            return None  # an empty account; waiting fills none
        self._failures += 1
        self._attempts += status not in _RESTING
        delay = self._patience.delay(self._failures) + max(asked or 0.0, 0.0)
        spent = time.monotonic() - (self._began or 0.0)
        over = self._attempts >= self._patience.attempts or spent + delay > self._patience.seconds
        return None if over else delay


class _Gate:
    """Holds every request back while the server is away or rests; says when it goes and when it is back."""

    def __init__(self, root: str, patience: Patience) -> None:
        self._root = root
        self._patience = patience
        self._opens_at = 0.0
        self._away_since: float | None = None
        self._failures = 0

    async def passed(self, wanted: Callable[[], bool]) -> bool:
        """Wait until requests may go; ``False`` if the answer is no longer wanted before."""
        while (left := self._opens_at - time.monotonic()) > 0:
            if not await _slept(left, wanted):
                return False
        return wanted()

    def rest(self, seconds: float) -> None:
        self._opens_at = max(self._opens_at, time.monotonic() + min(seconds, self._patience.seconds))

    def away(self, error: httpx.RequestError) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            log.warning("The engine at %s cannot be reached (%s): batches wait for it.", self._root, _named(error))
        if now >= self._opens_at:  # else another request has just found the same
            self._failures += 1
            self._opens_at = now + self._patience.delay(self._failures)

    def back(self) -> None:
        if self._away_since is not None:
            gone = time.monotonic() - self._away_since
            log.warning("The engine at %s is back after %.0f s.", self._root, gone)
        self._away_since = None
        self._failures = 0


def root_of(base_url: str) -> str:
    """An engine's address without the ``/v1`` that each request brings.

    :raises EngineAddressError: It is no address of the form ``http://host:port/v1``.
    """
    try:
        parts = urlsplit(base_url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        raise EngineAddressError("The engine's address has a port that is none.") from None
    if "@" in parts.netloc:
        raise EngineAddressError("The engine's address holds a user or password, which logs would show: use its key.")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits or parts.query or parts.fragment:
        raise EngineAddressError(f"{base_url!r} is no address of the form http://host:port/v1.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1').rstrip('/')}"


async def _slept(seconds: float, wanted: Callable[[], bool]) -> bool:
    """Sleep; ``False``, and early, if the answer is no longer wanted."""
    until = time.monotonic() + seconds
    while wanted():
        left = until - time.monotonic()
        if left <= 0:
            return True
        await asyncio.sleep(min(left, _TICK))
    return False


def _is_object(body: bytes) -> bool:
    try:
        body.decode()
        _decode_object(body)
    except (UnicodeDecodeError, msgspec.MsgspecError):
        return False
    return True


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
