"""What can be found out before anything is uploaded, at no cost: whether what a run needs is there, and whether the
provider knows what it will be asked."""

from __future__ import annotations

import difflib
import errno
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.errors import BatchInputError, LLMBatchError, NotFoundError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from structlog.typing import FilteringBoundLogger

    from airflow_provider_llmbatch.adapters.base import Adapter
    from airflow_provider_llmbatch.core.run.requests import RequestTemplate
    from airflow_provider_llmbatch.core.run.sources import FileSource
    from airflow_provider_llmbatch.core.storage import Folder

PROBE: Final = "_llmbatch.probe"
"""The file that is written into the output, and deleted, to see whether that can be written."""

_COPIES: Final = 2  # of an input in the stage: its requests, and its rows
# Named one by one, since what a store's client says of a broken network is an OSError too.
_OURS_TO_MEND: Final = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
_TEMPLATE: Final = re.compile(r"\{\{\s*([A-Za-z_][\w.]*)\s*(\|[^{}]*)?\}\}")
_STREAMS: Final = frozenset({"stream", "stream_options", "background"})


def check_parameters(adapter: Adapter, template: RequestTemplate) -> None:
    """Refuse parameters that the provider would refuse in every single request.

    Ready lines are not looked into, and of servers with parameters of their own nobody knows which those are.

    :raises BatchInputError: The provider does not know one, or a batch cannot do what it asks for.
    """
    known = adapter.known_parameters(template.endpoint)
    for name in template.parameters:
        if name in _STREAMS:
            raise _refused(f"a batch cannot do what {name!r} asks for")
        if known is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; perhaps {near[0]!r} is meant" if near else ""
            raise _refused(f"{adapter.title} knows no {name!r} in requests for {template.endpoint}{hint}")


def check_model(adapter: Adapter, model: str, *, log: FilteringBoundLogger) -> None:
    """Refuse a model that the connection certainly does not serve. What cannot be told is logged, and passes.

    :raises BatchInputError: It does not serve it.
    """
    try:
        adapter.check_model(model)
    except BatchInputError:
        raise
    except NotFoundError:
        log.debug(f"{adapter.title} does not tell which models it serves")  # as most servers of one's own
    except LLMBatchError as error:
        log.info(f"Whether {adapter.title} serves {model} could not be told beforehand: {type(error).__name__}")


def check_texts(template: RequestTemplate, *, log: FilteringBoundLogger) -> None:
    """Warn of what looks like a template of Airflow's in texts that Airflow does not render."""
    for name, text in (("prompt", template.prompt), ("system text", template.system)):
        if found := _TEMPLATE.search(text or ""):
            log.warning(
                f"The {name} holds {found[0]}, which goes to the model as {found[0][1:-1]}: Airflow does not render "
                "prompts. If a value is meant, let the source have it in a column, and name that as {column}"
            )


def check_output(output: Folder, *, log: FilteringBoundLogger) -> None:
    """Write a small file into the output, and delete it.

    :raises BatchInputError: It may not be written.
    :raises StorageError: It cannot be told: its storage does not answer.
    """
    try:
        output.put(PROBE, b"")
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, _OURS_TO_MEND) or getattr(cause, "errno", None) == errno.EROFS:
            raise BatchInputError(
                f"The output {output.uri()} cannot be written ({type(cause).__name__}: {cause}). Nothing was uploaded "
                "or billed. Give the task the right to it, or choose another output."
            ) from cause
        raise
    try:
        output.delete(PROBE)
    except StorageError as error:
        log.warning(f"{output.uri()} can be written, but nothing in it deleted, so the stage will stay there: {error}")


def check_space(output: Folder, sources: Sequence[FileSource] = (), *, largest_part: int) -> None:
    """Refuse what cannot fit: the stage, if it is on this machine, else the parts that are written here first.

    The least that is needed, where the size of the input is known; Parquet becomes larger than it is.

    :param sources: The files of the input.
    :param largest_part: Bytes that a part's requests may have at most.
    :raises BatchInputError: There is too little room on a disk.
    """
    size = sum(_sizes(sources))
    scratch = Path(tempfile.gettempdir())
    place = scratch if output.local is None else output.local
    needed = _COPIES * (min(size, largest_part) if output.local is None else size)
    free = shutil.disk_usage(_existing(place)).free
    if free < needed:
        raise BatchInputError(
            f"The input has {size:,} bytes, for which {place} needs {needed:,} free bytes at least, and it has "
            f"{free:,}. Nothing was uploaded or billed. Make room there, or choose another place: "
            + ("TMPDIR says where such files go." if output.local is None else "output= says where.")
        )


def _sizes(sources: Iterable[FileSource]) -> Iterable[int]:
    for source in sources:
        if isinstance(source.path, Path) and source.path.is_file():
            yield source.path.stat().st_size
        elif (fs := getattr(source.path, "fs", None)) is not None:
            try:
                yield int(fs.size(getattr(source.path, "path", "")) or 0)
            except Exception:  # noqa: BLE001, S112 - whoever reads it tells what is wrong with it
                continue


def _existing(place: Path) -> Path:
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _refused(problem: str) -> BatchInputError:
    return BatchInputError(
        f"The parameters cannot be sent: {problem}. Nothing was uploaded or billed. A retry would find the same: "
        "correct parameters=."
    )
