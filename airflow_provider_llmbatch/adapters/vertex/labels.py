"""``custom_id`` and metadata as labels of a request, which is all that Vertex gives back of a line.

A batch of Gemini has no field for an id. Each output line echoes its request, and of that only ``labels`` are sure to
come back as they went: the rest is normalised (nulls and defaults added). A label's value has at most 63 characters
out of ``a-z``, ``0-9``, ``_`` and ``-`` (``aiplatform_v1``, ``GenerateContentRequest.labels``; Google's general rule
would allow some other letters too). An id of such characters goes plain, any other one in base32. Labels flow into
Google's billing export.
"""

from __future__ import annotations

import re
from base64 import b32decode, b32encode
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

ID_LABEL: Final = "llmbatch_id"
MOST_LABELS: Final = 64
"""Of one resource, anywhere at Google Cloud."""

_OURS: Final = "llmbatch_"
_CHUNK: Final = 63
_is_value: Final = re.compile(r"[a-z0-9_-]{0,63}").fullmatch
_is_plain_id: Final = re.compile(r"[a-z0-9_-]{1,63}").fullmatch
_is_key: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}").fullmatch


def labels_of_id(custom_id: str) -> dict[str, str]:
    """``llmbatch_id``, or as many of ``llmbatch_id_0``, ``llmbatch_id_1``, … as its base32 needs.

    :raises LineRefused: It is empty, or would need more labels than there may be (2,515 bytes).
    """
    if _is_plain_id(custom_id):
        return {ID_LABEL: custom_id}
    if not custom_id:
        raise LineRefused("has an empty custom_id", "custom_id")
    coded = b32encode(custom_id.encode()).decode().rstrip("=").lower()
    if len(coded) > _CHUNK * MOST_LABELS:
        raise LineRefused(
            f"has a custom_id of {len(custom_id.encode()):,} bytes, which is more than Vertex AI's labels can carry; "
            "256 always fit",
            "custom_id",
        )
    return {f"{ID_LABEL}_{start // _CHUNK}": coded[start : start + _CHUNK] for start in range(0, len(coded), _CHUNK)}


def id_of_labels(labels: Mapping[str, str | None]) -> str:
    """The ``custom_id`` that ``labels_of_id`` put there.

    :raises ValueError: They hold none, or not all of it.
    """
    if plain := labels.get(ID_LABEL):
        return plain
    chunks: list[str] = []
    while chunk := labels.get(f"{ID_LABEL}_{len(chunks)}"):
        chunks.append(chunk)
    if len(chunks) != sum(key.startswith(f"{ID_LABEL}_") for key in labels):
        raise ValueError(f'its labels hold only pieces of an id, of "{ID_LABEL}_0" and so on')
    coded = "".join(chunks).upper()
    try:
        custom_id = b32decode(coded + "=" * (-len(coded) % 8)).decode()
    except ValueError:
        raise ValueError(f'its labels hold half an id in "{ID_LABEL}_0"') from None
    if not custom_id:
        raise ValueError(f'it has no label "{ID_LABEL}"')
    return custom_id


def labels_of_metadata(metadata: Mapping[str, str], param: str = "metadata") -> dict[str, str]:
    """Metadata as labels, unchanged.

    :param param: What the user called them.
    :raises LineRefused: A key or a value is no label; nothing is ever bent into one.
    """
    for key, value in metadata.items():
        if not _is_key(key) or key.startswith(_OURS):
            raise LineRefused(
                f'has the {param} "{key}", and Vertex AI keeps it as a label, whose name begins with a lower-case '
                "letter, has at most 63 characters of a-z, 0-9, _ and -, and does not begin with llmbatch_; rename it, "
                f'or list "{param}" in the connection\'s drop_params to leave it out',
                param,
            )
        if not _is_value(value):
            field = param if param == key else f"{param}.{key}"
            # The value stays out of the message: it may be a person's name.
            raise LineRefused(
                f"has {field} of {len(value)} characters, and Vertex AI keeps it as a label, whose value has at most "
                f'63 of a-z, 0-9, _ and -; change it, or list "{param}" in the connection\'s drop_params to leave it '
                "out",
                param,
            )
    return dict(metadata)
