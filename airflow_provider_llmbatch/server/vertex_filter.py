"""The ``filter`` of a list of jobs, as far as Vertex AI documents it: comparisons (AIP-160), ``NOT``, ``AND``."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.server.google_refusals import GoogleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_llmbatch.server.vertex_jobs import Job

    Test = Callable[[Job], bool]

_COMPARISON: Final = re.compile(
    r"""\s*(?P<not>NOT\s+|-)?
    (?P<field>[a-z_]+(?:\.(?:[\w-]+|"[\w-]+"))?)\s*
    (?P<operator>!=|>=|<=|=|>|<|:)\s*
    (?P<value>"(?:[^"\\]|\\.)*"|[^\s"()]+)\s*
    (?P<next>AND\s+|$)""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(.)")


def filtered(text: str) -> Test:
    """What tells whether a job fits a filter; the empty one fits all.

    :raises GoogleError: It cannot be read, or asks for what this server does not know: an unfiltered list would be a
        wrong answer.
    """
    tests: list[Test] = []
    at = 0
    while at < len(text):
        found = _COMPARISON.match(text, at)
        if found is None:
            raise GoogleError(400, f"Invalid filter: this server cannot read {text[at:]!r}.")
        test = _test(found["field"], found["operator"], _value(found["value"]))
        tests.append(_negated(test) if found["not"] else test)
        at = found.end()
    return lambda job: all(test(job) for test in tests)


def _negated(test: Test) -> Test:
    return lambda job: not test(job)


def _value(given: str) -> str:
    return _ESCAPE.sub(r"\1", given[1:-1]) if given.startswith('"') else given


def _test(field: str, operator: str, value: str) -> Test:
    name, _, key = field.partition(".")
    if name == "labels" and key:
        return _label_test(key.strip('"'), operator, value)
    if name == "create_time":
        return _time_test(operator, value)
    if field == "state" and operator in ("=", "!="):
        wanted = value.removeprefix("JOB_STATE_")
        return lambda job: (job.state == wanted) == (operator == "=")
    if field == "display_name":
        return _name_test(operator, value)
    raise GoogleError(400, f"Invalid filter: this server does not know {field}{operator} here.")


def _label_test(key: str, operator: str, value: str) -> Test:
    def label(job: Job) -> str | None:
        return job.asked.get("labels", {}).get(key)  # type: ignore[no-any-return] # checked when the job was made

    if operator == ":":
        return lambda job: label(job) is not None and value in ("*", label(job))
    if operator in ("=", "!="):
        return lambda job: (label(job) == value) == (operator == "=")
    raise GoogleError(400, f"Invalid filter: labels are not compared with {operator}.")


def _name_test(operator: str, value: str) -> Test:
    if operator == ":":
        return lambda job: fnmatchcase(str(job.asked["displayName"]), value if "*" in value else f"*{value}*")
    if operator in ("=", "!="):
        return lambda job: (job.asked["displayName"] == value) == (operator == "=")
    raise GoogleError(400, f"Invalid filter: display_name is not compared with {operator}.")


def _time_test(operator: str, value: str) -> Test:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise GoogleError(400, f"Invalid filter: {value!r} is no time of RFC 3339.") from None
    at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    tests: dict[str, Test] = {
        "=": lambda job: job.created == at,
        "!=": lambda job: job.created != at,
        ">": lambda job: job.created > at,
        ">=": lambda job: job.created >= at,
        "<": lambda job: job.created < at,
        "<=": lambda job: job.created <= at,
    }
    if operator not in tests:
        raise GoogleError(400, f"Invalid filter: create_time is not compared with {operator}.")
    return tests[operator]
