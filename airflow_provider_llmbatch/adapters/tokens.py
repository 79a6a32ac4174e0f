"""Tokens that a whole process shares, so that a thousand waits on one connection ask for one token an hour.

A token is renewed five minutes before it ends. Getting one blocks, as every call of an adapter does; threads that want
the same one wait for the first of them, and share why there is none.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from airflow_provider_llmbatch.errors import LLMBatchError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_RENEWED_BEFORE_END: Final = 300.0  # seconds; Azure's and Google's own clients renew about as early
_FAILURE_SHARED: Final = 5.0  # seconds for which threads that waited for the same token share why there is none
_KEPT: Final = 64


@dataclass(frozen=True)
class Token:
    """:param expires_on: Seconds since 1970."""

    value: str = field(repr=False)
    expires_on: float


TokenT = TypeVar("TokenT", bound=Token)


class _Shared(Generic[TokenT]):
    """A token, or why there is none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.token: TokenT | None = None
        self.failure: tuple[float, LLMBatchError] | None = None


class SharedTokens(Generic[TokenT]):
    """Those of one kind, each under whatever tells it from the others. Safe to use from several threads."""

    def __init__(self) -> None:
        self._all: dict[Hashable, _Shared[TokenT]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, fetch: Callable[[], TokenT], clock: Callable[[], float]) -> TokenT:
        """The token that is kept, else one that is fetched now.

        :param fetch: Gets a new one, or raises an ``LLMBatchError``.
        :param clock: Seconds since 1970.
        :raises LLMBatchError: What ``fetch`` raised, now or a moment ago for another thread.
        """
        shared = self._shared(key)
        with shared.lock:
            now = clock()
            if shared.token is not None and now < shared.token.expires_on - _RENEWED_BEFORE_END:
                return shared.token
            problem = shared.failure[1] if shared.failure and 0 <= now - shared.failure[0] < _FAILURE_SHARED else None
            if problem is None:
                try:
                    shared.token, shared.failure = fetch(), None
                except LLMBatchError as error:
                    problem = error
                    shared.failure = (clock(), error)
            if shared.token is not None and (problem is None or _old_one_will_do(shared.token, problem, clock())):
                return shared.token
        assert problem is not None  # noqa: S101 - else there is a token
        raise copy.copy(problem)  # each thread its own, since raising writes a traceback into it

    def forget(self, key: Hashable) -> None:
        """Fetch another one for the next attempt."""
        shared = self._shared(key)
        with shared.lock:
            shared.token = None

    def _shared(self, key: Hashable) -> _Shared[TokenT]:
        with self._lock:
            shared = self._all.pop(key, None) or _Shared()
            self._all[key] = shared  # the last one asked for stands last
            while len(self._all) > _KEPT:
                del self._all[next(iter(self._all))]
            return shared


def _old_one_will_do(token: Token, problem: LLMBatchError, now: float) -> bool:
    """Whether an outage can be borne with the token that is about to end."""
    return isinstance(problem, UnavailableError) and now < token.expires_on
