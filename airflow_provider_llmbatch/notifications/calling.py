"""How notifiers of Airflow's, and plain functions, are called."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context


def call(callback: Callable[[Context], Any], context: Context) -> None:
    """Call a notifier or a function, and leave it, and the context, as they are.

    A notifier renders its templates into itself, for good, and adds them to its context.
    """
    of_this_call = copy.copy(callback) if hasattr(callback, "template_fields") else callback
    of_this_call(cast("Context", {**context}))
