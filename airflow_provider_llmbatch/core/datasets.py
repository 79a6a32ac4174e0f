"""What files and folders are called as datasets: by OpenLineage's rules for names, and as URIs of Airflow's assets.

The same file has the same name whoever reads or writes it, so neither holds the connection that leads to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

_AZURE: Final = frozenset({"abfs", "abfss"})
_AS_IT_IS: Final = "/=:@+,;!$&'()*~"  # in the path of a URI
_WEB: Final = frozenset({"http", "https"})


class DatasetName(NamedTuple):
    """A dataset, as OpenLineage's naming specification has it: such as ``s3://bucket`` and ``folder/file.jsonl``."""

    namespace: str
    name: str


def dataset_name(location: str) -> DatasetName:
    """:param location: A path, or a URI, in which Airflow may have a connection id (``s3://conn_id@bucket/key``)."""
    scheme, authority, path = _split(location)
    if scheme == "file":
        return DatasetName(f"file://{authority}" if authority else "file", path)
    if scheme in _AZURE:
        scheme = "abfss"
    return DatasetName(f"{scheme}://{authority}", path.strip("/") or "/")


def asset_uri(location: str) -> str:
    """:param location: As above."""
    scheme, authority, path = _split(location)
    return f"{scheme}://{authority}{quote(path, safe=_AS_IT_IS)}"


def _split(location: str) -> tuple[str, str, str]:
    """Scheme, bucket or host, and path, which begins with a slash and does not end with one."""
    if "://" not in location:
        return "file", "", str(Path(location).absolute())
    parts = urlsplit(location)
    if parts.scheme == "file":
        path = unquote(parts.path)
    elif parts.scheme in _WEB:
        path = parts.path  # a link that is good without a password has its signature behind the path
    else:
        path = f"/{location.split('://', 1)[1].partition('/')[2]}"  # a ? or a # is a part of an object's name
    return parts.scheme, parts.netloc.rpartition("@")[2], path.rstrip("/") or "/"
