"""What a model costs on a day: by a table of one's own first, else as it is published, else not known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.core.costs.rates import ModelPrices

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.costs.table import Entry, PriceTable

_NOBODY: Final = "none"


@dataclass(frozen=True)
class Prices:
    """The prices that hold behind one connection.

    :param provider: Whose published prices hold, in genai-prices' words (``openai``), or the URL of its API;
        ``None`` for nobody's: a server of one's own bills nothing that is published.
    :param table: Stands before them, and may name another provider.
    """

    provider: str | None = None
    table: PriceTable | None = None

    def of(self, model: str | None, when: float, *, asked: str | None = None) -> ModelPrices | None:
        """What a model costs; ``None`` if nothing is known. An amount that is missing in it is not known either.

        :param model: As the answer names it, or the request if that is all there is.
        :param when: When its batch was created, in seconds since 1970.
        :param asked: As the request names it, which at Azure is the deployment: the table's first key.
        """
        entry = self.table.entry_of(asked, model) if self.table else None
        if entry is not None and (entry.batch or entry.standard):
            return self._own(entry, model or asked or "")
        found = self._published((entry.model if entry else None) or model or asked, when)
        if entry is None or entry.multiplier is None or found is None:
            return found
        note = f", times {entry.multiplier} by {entry.source or self._source}"
        batch, standard = (
            price and price.times(entry.multiplier, price.source + note) for price in (found.batch, found.standard)
        )
        return ModelPrices(found.model, batch, standard)

    @property
    def _source(self) -> str:
        return self.table.source if self.table else ""

    def _own(self, entry: Entry, model: str) -> ModelPrices:
        since = entry.as_of or (self.table.as_of if self.table else None)
        source = entry.source or self._source
        return ModelPrices(
            model,
            batch=entry.batch.price(source, since) if entry.batch else None,
            standard=entry.standard.price(source, since) if entry.standard else None,
        )

    def _published(self, model: str | None, when: float) -> ModelPrices | None:
        provider = (self.table and self.table.provider) or self.provider
        if provider is None or provider == _NOBODY or not model:
            return None
        from airflow_provider_llmbatch.core.costs.published import published_prices  # noqa: PLC0415 - brings the data

        # A path such as publishers/google/models/gemini-2.5-flash ends in the name that prices know.
        return published_prices(provider, model.rpartition("/")[2], datetime.fromtimestamp(when, UTC).date())
