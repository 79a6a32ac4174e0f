"""What breaks in the campaign of faults, drawn by a seed: in which call, how, and when."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.fault_proxy import Answer, Delay, Drop, Garbage, Hang, LoseAnswer, Truncate

if TYPE_CHECKING:
    from support.fault_proxy import Fault, FaultProxy

_CALLS = {
    "upload": ("api", "POST", r"/files$"),
    "creation": ("api", "POST", r"/batches$"),
    "look": ("api", "GET", r"/batches/[^/]+$"),
    "listing": ("api", "GET", r"/(batches|files)$"),
    "download": ("api", "GET", r"/content$"),
    "file": ("api", "GET", r"/files/[^/]+$"),
    "deletion": ("api", "DELETE", r"/files/"),
}
_CALLS_AT_VERTEX = {
    "upload": ("storage", "PUT", r"^/upload/"),
    "creation": ("api", "POST", r"/batchPredictionJobs$"),
    "look": ("api", "GET", r"/batchPredictionJobs/[^/]+$"),
    "listing": ("api", "GET", r"/batchPredictionJobs$"),
    "download": ("storage", "GET", r"/o/.*predictions"),
    "file": ("storage", "GET", r"/o/(?!.*predictions)"),
    "deletion": ("storage", "DELETE", r"/o/"),
    "beginning of an upload": ("storage", "POST", r"^/upload/"),
    "listing of files": ("storage", "GET", r"/o$"),
}
_WEIGHTS = {
    "upload": 3,
    "creation": 6,
    "look": 3,
    "listing": 3,
    "download": 3,
    "file": 1,
    "deletion": 1,
    "beginning of an upload": 1,
    "listing of files": 1,
}
_REFUSED = b'{"error": {"message": "broken on purpose", "code": null}}'


@dataclass(frozen=True)
class Proxies:
    """:param storage: Before the Cloud Storage of Vertex AI; the others have none."""

    api: FaultProxy
    storage: FaultProxy | None = None

    def calls(self) -> dict[str, tuple[FaultProxy, str, str]]:
        """Where each kind of call passes, and what tells it from others: method and path."""
        if self.storage is None:
            return {name: (self.api, method, path) for name, (_, method, path) in _CALLS.items()}
        places = {"api": self.api, "storage": self.storage}
        return {name: (places[place], method, path) for name, (place, method, path) in _CALLS_AT_VERTEX.items()}


class Drawn:
    """Faults that lie in wait at the proxies."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies
        self._planned: list[tuple[str, Fault]] = []

    def add(self, call: str, name: str, fault: Fault, *, after: int) -> None:
        """:param after: So many calls go well first."""
        proxy, method, path = self._proxies.calls()[call]
        if after:
            proxy.rule(method, path, Delay(0.0), times=after)
        proxy.rule(method, path, fault)
        self._planned.append((f"{name} in {call}", fault))

    def struck(self) -> list[str]:
        """The names of those that a call met."""
        proxies = filter(None, (self._proxies.api, self._proxies.storage))
        waiting = Counter(id(rule.fault) for proxy in proxies for rule in proxy._rules if rule.times)
        return [name for name, fault in self._planned if not waiting[id(fault)]]


def draw_faults(proxies: Proxies, seed: int) -> Drawn:
    dice = random.Random(f"faults {seed}")
    drawn = Drawn(proxies)
    kinds = list(proxies.calls())
    hangs = 0
    for _ in range(dice.randint(4, 10)):
        [call] = dice.choices(kinds, [_WEIGHTS[kind] for kind in kinds])
        menu: dict[str, Fault] = {
            "429": Answer(429, _REFUSED, {"Retry-After": "0"}),
            "500": Answer(500, _REFUSED),
            "503": Answer(503, b"<html>busy</html>"),
            "reset": Drop(),
            "close": Drop(reset=False),
            "slow": Delay(0.1),
            "garbage": Garbage(),
            "truncated": Truncate(dice.randint(0, 60)),
            "lost answer": LoseAnswer(),
        }
        if not hangs:
            menu["lost in a time-out"] = Hang(forwarding=True)
        if call == "upload":
            menu["reset halfway"] = Drop(after_bytes=1)
        name = dice.choice(list(menu))
        hangs += isinstance(menu[name], Hang)
        drawn.add(call, name, menu[name], after=dice.randint(0, 2))
    return drawn
