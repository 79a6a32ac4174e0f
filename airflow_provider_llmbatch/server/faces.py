"""Whose API the server speaks: the options for it, and what stands before and behind the application because of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_llmbatch.server.azure import AzureFace
from airflow_provider_llmbatch.server.azure_limits import Intake, TokenQueue
from airflow_provider_llmbatch.server.dialect import AZURE, OPENAI, Dialect
from airflow_provider_llmbatch.server.engines.deployments import Deployments
from airflow_provider_llmbatch.server.numbers import positive, seconds

if TYPE_CHECKING:
    import argparse

    from starlette.types import ASGIApp

    from airflow_provider_llmbatch.server.engines.base import Engine
    from airflow_provider_llmbatch.server.faults import Faults
    from airflow_provider_llmbatch.server.store import Store


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--face", choices=("openai", "azure"), default="openai", help="whose API to speak (default: %(default)s)"
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


class Face:
    """What the options ask for.

    :param faults: May say which files cannot be read, which only Azure does.
    """

    def __init__(self, options: argparse.Namespace, faults: Faults | None) -> None:
        self._options = options
        self._faults = faults
        self._is_azure = options.face == "azure"

    @property
    def knows_its_faults(self) -> bool:
        return self._is_azure or not (self._faults and self._faults.files)

    @property
    def base_path(self) -> str:
        """What clients call, after host and port."""
        return "/openai/v1" if self._is_azure else "/v1"

    @property
    def dialect(self) -> Dialect:
        return replace(AZURE, files_staying=self._options.azure_file_quota) if self._is_azure else OPENAI

    def behind(self, engine: Engine) -> Engine:
        return Deployments(engine) if self._is_azure else engine

    def before(self, app: ASGIApp, store: Store, *, api_key: str) -> ASGIApp:
        if not self._is_azure:
            return app
        limit: int | None = self._options.azure_token_limit
        return AzureFace(
            app,
            store,
            self.dialect,
            api_key=api_key,
            intake=Intake(self._options.azure_file_seconds, self._faults),
            queue=TokenQueue(store, limit) if limit else None,
        )
