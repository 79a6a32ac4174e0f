"""What an operator offers to OpenLineage; the facets themselves are made in a module that is loaded when it asks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset
    from openlineage.client.facet_v2 import JobFacet, RunFacet

    Lineage: TypeAlias = OperatorLineage[Dataset, RunFacet | JobFacet]


@dataclass(frozen=True)
class Landed:
    """A file that was written.

    :param rows: Where they were counted.
    """

    bytes: int
    rows: int | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)


class HasLineage:
    """An operator whose facets tell, at any moment, what it knows by then: more after its end than at its start."""

    def lineage(self) -> Lineage:
        """What it reads, what it writes, and what it knows of its run."""
        raise NotImplementedError

    def get_openlineage_facets_on_start(self) -> Lineage:
        """Called by Airflow's OpenLineage provider, if that is installed and switched on."""
        return self.lineage()

    def get_openlineage_facets_on_complete(self, task_instance: object) -> Lineage:
        """As on start, when the task has succeeded."""
        del task_instance
        return self.lineage()

    def get_openlineage_facets_on_failure(self, task_instance: object) -> Lineage:
        """As on start, when the task has failed: also with a result set that was published before."""
        del task_instance
        return self.lineage()
