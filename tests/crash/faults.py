"""What breaks in the campaign of faults, drawn by a seed: in which call, how, and when."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from support.fault_proxy import Answer, Delay, Drop, Garbage, Hang, LoseAnswer, Truncate

if TYPE_CHECKING:
    from support.fault_proxy import Fault, FaultProxy

_CALLS = {
    "upload": ("POST", r"/files$"),
    "creation": ("POST", r"/batches$"),
    "look": ("GET", r"/batches/[^/]+$"),
    "listing": ("GET", r"/(batches|files)$"),
    "download": ("GET", r"/content$"),
    "file": ("GET", r"/files/[^/]+$"),
    "deletion": ("DELETE", r"/files/"),
}
_WEIGHTS = {"upload": 3, "creation": 6, "look": 3, "listing": 3, "download": 3, "file": 1, "deletion": 1}
_REFUSED = b'{"error": {"message": "broken on purpose", "code": null}}'


class Drawn:
    """Faults that lie in wait at a proxy."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._planned: list[tuple[str, Fault]] = []

    def add(self, call: str, name: str, fault: Fault, *, after: int) -> None:
        """:param after: So many calls go well first."""
        method, path = _CALLS[call]
        if after:
            self._proxy.rule(method, path, Delay(0.0), times=after)
        self._proxy.rule(method, path, fault)
        self._planned.append((f"{name} in {call}", fault))

    def struck(self) -> list[str]:
        """The names of those that a call met."""
        waiting = Counter(id(rule.fault) for rule in self._proxy._rules if rule.times)
        return [name for name, fault in self._planned if not waiting[id(fault)]]


def draw_faults(proxy: FaultProxy, seed: int) -> Drawn:
    dice = random.Random(f"faults {seed}")
    drawn = Drawn(proxy)
    hangs = 0
    for _ in range(dice.randint(4, 10)):
        [call] = dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
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
