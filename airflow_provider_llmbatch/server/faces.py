"""Whose API the server speaks: the options for it, and what stands before and behind the application because of it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.server.azure import AzureFace
from airflow_provider_llmbatch.server.azure_limits import Intake, TokenQueue
from airflow_provider_llmbatch.server.dialect import AZURE, OPENAI, VERTEX, Dialect
from airflow_provider_llmbatch.server.engines.deployments import Deployments
from airflow_provider_llmbatch.server.gemini import GeminiEngine
from airflow_provider_llmbatch.server.numbers import positive, seconds

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from airflow_provider_llmbatch.server.engines.base import Engine
    from airflow_provider_llmbatch.server.faults import Faults
    from airflow_provider_llmbatch.server.store import Store

STORAGE_VARIABLE: Final = "STORAGE_EMULATOR_HOST"
"""Where Google's own clients look for an emulator of Cloud Storage, too."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--face",
        choices=("openai", "azure", "vertex"),
        default="openai",
        help="whose API to speak (default: %(default)s)",
    )
    azure = parser.add_argument_group("with --face azure")
    azure.add_argument(
        "--azure-file-seconds",
        type=seconds,
        default=0.5,
        help="how long an input file is pending before it is processed (default: %(default)g)",
    )
    azure.add_argument(
        "--azure-file-quota",
        type=positive(int),
        default=AZURE.files_staying,
        help="input files without an expiry that there may be (default: %(default)s)",
    )
    azure.add_argument(
        "--azure-token-limit",
        type=positive(int),
        help="tokens, a quarter of the bytes, in all batches that have not ended; a batch beyond it is refused "
        "(default: without end)",
    )
    vertex = parser.add_argument_group("with --face vertex")
    vertex.add_argument(
        "--storage-url",
        help="an emulator of Cloud Storage, with its JSON API, where inputs are and outputs go; else as "
        f"{STORAGE_VARIABLE} says",
    )
    vertex.add_argument(
        "--vertex-queue-seconds",
        type=seconds,
        default=0.2,
        help="how long a job is queued before it is looked at (default: %(default)g)",
    )
    vertex.add_argument(
        "--vertex-rows-per-shard",
        type=positive(int),
        default=10_000,
        help="rows of an output; more make more objects (default: %(default)s)",
    )
    vertex.add_argument(
        "--vertex-project",
        default="llmbatch-local",
        help="the project that the key file names (default: %(default)s)",
    )


class FaceError(Exception):
    """Raised when the options for a face do not go together; the message says why."""


class Face:
    """What the options ask for.

    :param faults: May say which files cannot be read, which only Azure does, and which rows get lost, which only
        Vertex AI does.
    """

    def __init__(self, options: argparse.Namespace, faults: Faults | None) -> None:
        self._options = options
        self._faults = faults
        self._name: str = options.face

    def check(self) -> None:
        """:raises FaceError: Something is missing, or is for another face."""
        if self._faults and self._faults.files and self._name != "azure":
            raise FaceError(f"The file of faults {self._options.faults} has rules for files: they need --face azure.")
        if self._faults and self._faults.loses_rows and self._name != "vertex":
            raise FaceError(f"The file of faults {self._options.faults} loses rows: that needs --face vertex.")
        if self._faults and self._faults.refuses_creations and self._name == "vertex":
            raise FaceError(
                f"The file of faults {self._options.faults} refuses creations in OpenAI's words, which --face vertex "
                "does not know: there, a rule for calls can answer with a status and a body."
            )
        if self._name == "vertex" and not self._storage_url:
            raise FaceError(
                "The face vertex reads and writes Cloud Storage: give an emulator's address, http://host:port, in "
                f"--storage-url or {STORAGE_VARIABLE}."
            )

    @property
    def _storage_url(self) -> str:
        return self._options.storage_url or os.environ.get(STORAGE_VARIABLE, "")

    @property
    def base_path(self) -> str:
        """What clients call, after host and port."""
        return {"azure": "/openai/v1", "vertex": ""}.get(self._name, "/v1")

    @property
    def dialect(self) -> Dialect:
        if self._name == "azure":
            return replace(AZURE, files_staying=self._options.azure_file_quota)
        return VERTEX if self._name == "vertex" else OPENAI

    def behind(self, engine: Engine) -> Engine:
        if self._name == "vertex":
            return GeminiEngine(engine)
        return Deployments(engine) if self._name == "azure" else engine

    def before(self, app: FastAPI, store: Store, *, api_key: str, url: str, model: str | None) -> ASGIApp:
        """The application that callers see.

        :param url: The server's own, without a path.
        :param model: The only one that the engine serves, or ``None`` if it serves any.
        """
        if self._name == "azure":
            return self._azure(app, store, api_key)
        return self._vertex(app, store, api_key, url, model) if self._name == "vertex" else app

    def _azure(self, app: FastAPI, store: Store, api_key: str) -> ASGIApp:
        limit: int | None = self._options.azure_token_limit
        return AzureFace(
            app,
            store,
            self.dialect,
            api_key=api_key,
            intake=Intake(self._options.azure_file_seconds, self._faults),
            queue=TokenQueue(store, limit) if limit else None,
        )

    def _vertex(self, app: FastAPI, store: Store, api_key: str, url: str, model: str | None) -> ASGIApp:
        # Cryptography for its tokens is a fifth of the server's start, and no other face needs it.
        from airflow_provider_llmbatch.server.service_account import ServiceAccount  # noqa: PLC0415 - no other face needs it
        from airflow_provider_llmbatch.server.vertex import Rules, VertexFace  # noqa: PLC0415 - no other face needs it
        from airflow_provider_llmbatch.server.vertex_jobs import Jobs  # noqa: PLC0415 - no other face needs it
        from airflow_provider_llmbatch.server.vertex_storage import Storage  # noqa: PLC0415 - no other face needs it

        folder: Path = self._options.data
        return VertexFace(
            app,
            store,
            Jobs(folder),
            Storage(self._storage_url),
            ServiceAccount(folder / "service-account.json", url=url, project=self._options.vertex_project),
            api_key=api_key,
            model=model,
            rules=Rules(
                queue_seconds=self._options.vertex_queue_seconds,
                rows_per_shard=self._options.vertex_rows_per_shard,
                lost_rows=self._faults.lost_rows if self._faults else lambda: 0,
            ),
        )
