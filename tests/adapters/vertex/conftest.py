from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trustme
from support.google_tokens import GoogleTokens, google_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Signs for whatever host the proxy of ``google`` plays."""
    return trustme.CA()


@pytest.fixture
def google(authority: trustme.CA) -> Iterator[GoogleTokens]:
    """Google's token endpoints; nothing of the environment says who signs."""
    with google_tokens(authority) as server:
        yield server


@pytest.fixture(autouse=True)
def no_account_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "GCLOUD_", "GCE_", "STORAGE_EMULATOR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path_factory.getbasetemp() / "no-gcloud"))
