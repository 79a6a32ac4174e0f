"""A notifier for the parameter ``on_batch_event``, that lets others tell of some events only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier
from typing_extensions import override

from airflow_provider_llmbatch.core.events import EVENTS, LLMBatchEvent
from airflow_provider_llmbatch.notifications.calling import call

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from airflow.sdk import Context

    from airflow_provider_llmbatch.core.events import EventName

__all__ = ["LLMBatchEvent", "LLMBatchNotifier"]


class LLMBatchNotifier(BaseNotifier):
    """Pass some events on to another notifier, or several::

        on_batch_event = [
            LLMBatchNotifier(SlackWebhookNotifier(text="{{ llmbatch.message }}"), events=["done"]),
            LLMBatchNotifier(PagerdutyNotifier(summary="{{ llmbatch.message }}"), events=["failed", "deadline"]),
        ]

    Subclass it, and override ``notify_event``, to write one of your own.

    :param notifiers: A notifier, a function of the context, or a list of them. They are called as if they stood in
        ``on_batch_event`` themselves: the event is ``context["llmbatch"]``, and ``llmbatch`` in templates.
    :param events: Which to pass on; by default all.
    :raises ValueError: There is no such event.
    """

    def __init__(
        self,
        notifiers: Callable[[Context], Any] | Sequence[Callable[[Context], Any]] = (),
        *,
        events: Collection[EventName] = EVENTS,
    ) -> None:
        super().__init__()
        unknown = sorted({events} if isinstance(events, str) else set(events) - set(EVENTS))
        if unknown:
            raise ValueError(f"events= takes a list of {', '.join(EVENTS)}, and not {', '.join(unknown)}")
        self.notifiers = (notifiers,) if callable(notifiers) else tuple(notifiers)
        self.events = frozenset(events)

    @override
    def notify(self, context: Context) -> None:
        event: LLMBatchEvent = context["llmbatch"]  # type: ignore[typeddict-item] # put there by on_batch_event
        if event.event in self.events:
            self.notify_event(event, context)

    def notify_event(self, event: LLMBatchEvent, context: Context) -> None:
        """Tell of one of the wanted events; by default through ``notifiers``, the last of whose errors is raised."""
        del event
        failed: Exception | None = None
        for notifier in self.notifiers:
            try:
                call(notifier, context)
            except Exception as error:  # noqa: BLE001 - the next one is to be called in any case
                failed = error
        if failed is not None:
            raise failed
