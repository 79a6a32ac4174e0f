"""Images, sound and files inside a message: bytes in the line, or the address of an object.

``inlineData`` takes base64 without a prefix, ``fileData`` an address together with its type, which Google does not
guess (``aiplatform_v1``, ``Blob`` and ``FileData``).
"""

from __future__ import annotations

import binascii
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

Part = dict[str, object]

# Of our own, since Python's table differs from one system to the next. The types are those that Gemini reads.
_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "3gp": "video/3gpp",
        "aac": "audio/aac",
        "aif": "audio/aiff",
        "aiff": "audio/aiff",
        "avi": "video/avi",
        "avif": "image/avif",
        "bmp": "image/bmp",
        "css": "text/css",
        "csv": "text/csv",
        "flac": "audio/flac",
        "flv": "video/x-flv",
        "gif": "image/gif",
        "heic": "image/heic",
        "heif": "image/heif",
        "htm": "text/html",
        "html": "text/html",
        "jpeg": "image/jpeg",
        "jpg": "image/jpeg",
        "js": "text/javascript",
        "json": "application/json",
        "m4a": "audio/m4a",
        "md": "text/md",
        "mov": "video/mov",
        "mp3": "audio/mp3",
        "mp4": "video/mp4",
        "mpeg": "video/mpeg",
        "mpg": "video/mpg",
        "ogg": "audio/ogg",
        "opus": "audio/opus",
        "pdf": "application/pdf",
        "png": "image/png",
        "py": "text/x-python",
        "rtf": "text/rtf",
        "tif": "image/tiff",
        "tiff": "image/tiff",
        "txt": "text/plain",
        "wav": "audio/wav",
        "webm": "video/webm",
        "webp": "image/webp",
        "wmv": "video/wmv",
        "xml": "text/xml",
    }
)
_ADDRESSES: Final = ("gs://", "https://")
_is_sound_format: Final = re.compile(r"[a-z0-9.+-]{1,40}").fullmatch
_white: Final = re.compile(r"\s+")


def of_address(url: str, param: str) -> Part:
    """A part for a ``data:``, ``gs://`` or ``https://`` address.

    :param param: Where it stands, for messages.
    :raises LineRefused: It is another kind of address, or one whose type cannot be told.
    """
    if url[:5].lower() == "data:":
        return _of_data_uri(url, param)
    if not url.startswith(_ADDRESSES):
        raise LineRefused(
            f'has {_a(param)} that begins with "{url[:12]}"; Gemini reads data: URIs, gs:// and https:// addresses',
            param,
        )
    kind = type_of_name(url)
    if kind is None:
        raise LineRefused(
            f"has {_a(param)} whose type cannot be told from the end of its address, and Gemini must be told; let the "
            "address end in .jpg or the like, or send a data: URI",
            param,
        )
    return {"fileData": {"fileUri": url, "mimeType": kind}}


def of_bytes(kind: str, data: str, param: str) -> Part:
    """A part that holds bytes.

    :param data: Their base64.
    :raises LineRefused: It is no base64; Vertex AI would refuse the whole job.
    """
    return {"inlineData": {"mimeType": kind, "data": _checked_base64(data, param)}}


def of_file(data: str, filename: str | None, param: str) -> Part:
    """A part for ``file_data``: a data URI, or base64 whose type the file's name tells."""
    if data[:5].lower() == "data:":
        return _of_data_uri(data, param)
    kind = type_of_name(filename or "")
    if kind is None:
        raise LineRefused(
            f"has {_a(param)} whose type neither it nor the file's name tells, and Gemini must be told; send a data: "
            "URI, or a filename that ends in .pdf or the like",
            param,
        )
    return of_bytes(kind, data, param)


def of_sound(sound_format: str, data: str, param: str) -> Part:
    """A part for ``input_audio``, whose format is the second half of a type."""
    if not _is_sound_format(sound_format):
        raise LineRefused(f"has {_a(param)} whose format is none, such as wav or mp3", param)
    return of_bytes(f"audio/{sound_format}", data, param)


def type_of_name(name: str) -> str | None:
    """The type that the end of a name or an address tells."""
    path = name.partition("?")[0].partition("#")[0] if name.startswith("https://") else name
    return _TYPES.get(path.rpartition("/")[2].rpartition(".")[2].lower())


def _of_data_uri(uri: str, param: str) -> Part:
    head, comma, data = uri.partition(",")
    kind, *parameters = head[5:].split(";")
    if not comma:
        raise LineRefused(f"has {_a(param)} that is half a data: URI, without a comma", param)
    if parameters and parameters[-1].strip().lower() == "base64":
        data = unquote_to_bytes(data).decode("ascii", "replace") if "%" in data else data
    else:
        data = binascii.b2a_base64(unquote_to_bytes(data), newline=False).decode()
    return of_bytes(kind.strip().lower() or "text/plain", data, param)


def _checked_base64(data: str, param: str) -> str:
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        pass
    else:
        return data
    # With line ends, without padding, or in the alphabet for URLs: other services take these as well.
    mended = _white.sub("", data).translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")
    mended += "=" * (-len(mended) % 4)
    try:
        binascii.a2b_base64(mended, strict_mode=True)
    except ValueError as error:
        raise LineRefused(f"has {_a(param)} that is no base64: {str(error)[:100]}", param) from None
    return mended


def _a(param: str) -> str:
    return f"an {param}" if param[0] in "aeiou" else f"a {param}"
