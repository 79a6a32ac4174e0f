"""What ``--faults FILE`` reads: which calls, requests and batches go wrong, how, and how often. For tests only.

``docs/server.md`` describes the file for its users; ``faulty.py`` makes happen what it says.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


class FaultsError(ValueError):
    """Raised when a file of faults cannot be used; the message says where in it and why."""


class _Rule(BaseModel):
    """When a rule strikes: of the occasions it fits, not the first ``skip``, then every so many-th, by chance, and so
    often."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    skip: int = Field(default=0, ge=0)
    every: int = Field(default=1, ge=1)
    probability: float = Field(default=1.0, gt=0, le=1)
    times: int | None = Field(default=None, ge=1)


class _CallRule(_Rule):
    method: Literal["GET", "POST", "DELETE"] | None = None
    path: re.Pattern[str] = re.compile("")


class StatusOfCall(_CallRule):
    fault: Literal["status"]
    status: int = Field(ge=200, le=599)
    headers: dict[str, str] = {}
    body: JsonValue = None


class Reset(_CallRule):
    fault: Literal["reset"]


class DelayOfCall(_CallRule):
    fault: Literal["delay"]
    seconds: float = Field(ge=0)


class LoseAnswer(_CallRule):
    fault: Literal["lose_answer"]


class Truncate(_CallRule):
    fault: Literal["truncate"]
    after_bytes: int = Field(ge=0)


class _RequestRule(_Rule):
    custom_id: re.Pattern[str] = re.compile("")


class StatusOfRequest(_RequestRule):
    fault: Literal["status"]
    status: int = Field(ge=400, le=599)
    code: str = "fault"
    message: str = "This request fails because the file of faults says so."


class DelayOfRequest(_RequestRule):
    fault: Literal["delay"]
    seconds: float = Field(ge=0)


class Expire(_Rule):
    fault: Literal["expire"]
    after_answers: int = Field(ge=0)


class TokenLimit(_Rule):
    fault: Literal["token_limit"]
    at: Literal["creation", "validation"]
    status: Literal[400, 429] = 429
    limit: int = Field(default=90_000, ge=0)
    organization: str = "org-faults"

    def message(self, model: str | None) -> str:
        """OpenAI's words, which its users know it by."""
        return (
            f"Enqueued token limit reached for {model} in organization {self.organization}. Limit: {self.limit:,} "
            "enqueued tokens. Please try again once some in_progress batches have been completed."
        )


class LoseRows(_Rule):
    """Rows that Vertex AI's face leaves out of a job's output, which then has partially succeeded."""

    fault: Literal["lose_rows"]
    rows: int = Field(ge=1)


class BrokenFile(_Rule):
    """An input file that Azure's face takes and then cannot read."""

    fault: Literal["error"]
    filename: re.Pattern[str] = re.compile("")
    details: str = "The file cannot be read because the file of faults says so."


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    seed: int = 0
    calls: tuple[
        Annotated[StatusOfCall | Reset | DelayOfCall | LoseAnswer | Truncate, Field(discriminator="fault")], ...
    ] = ()
    requests: tuple[Annotated[StatusOfRequest | DelayOfRequest, Field(discriminator="fault")], ...] = ()
    batches: tuple[Annotated[Expire | TokenLimit | LoseRows, Field(discriminator="fault")], ...] = ()
    files: tuple[BrokenFile, ...] = ()


RuleT = TypeVar("RuleT", bound=_Rule)


class _Armed(Generic[RuleT]):
    """A rule and the occasions it has seen. Chance is its own, so that one rule's use changes no other's."""

    def __init__(self, rule: RuleT, seed: str) -> None:
        self.rule = rule
        self._chance = random.Random(seed)
        self._seen = self._struck = 0

    def strikes(self) -> bool:
        self._seen += 1
        turn = self._seen - self.rule.skip
        if turn <= 0 or turn % self.rule.every or self._struck == self.rule.times:
            return False
        if self._chance.random() >= self.rule.probability:
            return False
        self._struck += 1
        return True


class Faults:
    """The rules of a file. Of those that fit an occasion, the first that strikes decides; the later ones do not see it.

    :raises FaultsError: The text is no file of faults.
    """

    def __init__(self, text: str) -> None:
        try:
            file = _File.model_validate_json(text)
        except ValidationError as error:
            raise FaultsError("\n".join(_findings(error))) from None
        self.calls = [_Armed(rule, f"{file.seed} calls {i}") for i, rule in enumerate(file.calls)]
        self.requests = [_Armed(rule, f"{file.seed} requests {i}") for i, rule in enumerate(file.requests)]
        self.files = [_Armed(rule, f"{file.seed} files {i}") for i, rule in enumerate(file.files)]
        self.batches = [_Armed(rule, f"{file.seed} batches {i}") for i, rule in enumerate(file.batches)]

    @property
    def refuses_creations(self) -> bool:
        return any(isinstance(armed.rule, TokenLimit) and armed.rule.at == "creation" for armed in self.batches)

    @property
    def loses_rows(self) -> bool:
        return any(isinstance(armed.rule, LoseRows) for armed in self.batches)

    def lost_rows(self) -> int:
        """How many rows of the next output get lost."""
        rule = first_striking(self.batches, lambda rule: isinstance(rule, LoseRows))
        return rule.rows if isinstance(rule, LoseRows) else 0

    @classmethod
    def read(cls, path: Path) -> Faults:
        """:raises FaultsError: The file cannot be read or used."""
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise FaultsError(f"It cannot be read ({error}).") from None


def _findings(error: ValidationError) -> Iterable[str]:
    for finding in error.errors(include_url=False):
        where = ".".join(str(part) for part in finding["loc"])
        yield f"{where}: {finding['msg']}" if where else finding["msg"]


def first_striking(rules: Iterable[_Armed[RuleT]], fits: Callable[[RuleT], bool]) -> RuleT | None:
    return next((armed.rule for armed in rules if fits(armed.rule) and armed.strikes()), None)
