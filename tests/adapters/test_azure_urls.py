"""Whatever address of an Azure OpenAI resource a person pastes ends in the right paths, or in the shape to give."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from adapters.conftest import KEY
from support.fault_proxy import Answer, fault_proxy

from airflow_provider_llmbatch.adapters.azure import AzureAdapter, AzureSettings
from airflow_provider_llmbatch.adapters.azure_address import CLASSIC_SCOPE, V1_SCOPE, Address, address_of
from airflow_provider_llmbatch.errors import ConnectionSettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.fault_proxy import FaultProxy

GA = "2024-10-21"
PREVIEW = "2025-04-01-preview"


def v1(base_url: str, version: str | None = None, *, is_azure: bool = True) -> Address:
    return Address(base_url, version, is_v1=True, is_azure=is_azure)


def classic(base_url: str, version: str = GA, *, is_azure: bool = True) -> Address:
    return Address(base_url, version, is_v1=False, is_azure=is_azure)


R = "https://r.openai.azure.com"
S = "https://r.services.ai.azure.com"


@pytest.mark.parametrize(
    ("pasted", "version", "meant"),
    [
        (R, None, v1(f"{R}/openai/v1")),
        (f"{R}/", None, v1(f"{R}/openai/v1")),
        (f"{R}/openai", None, v1(f"{R}/openai/v1")),
        (f"{R}/openai/", None, v1(f"{R}/openai/v1")),
        (f"{R}/openai/v1", None, v1(f"{R}/openai/v1")),
        (f"{R}/openai/v1/", None, v1(f"{R}/openai/v1")),
        (f"{R}//openai//v1//", None, v1(f"{R}/openai/v1")),
        (f"{R}/OpenAI/V1", None, v1(f"{R}/openai/v1")),
        (f"  {R}/openai/v1 ", None, v1(f"{R}/openai/v1")),
        ("r.openai.azure.com", None, v1(f"{R}/openai/v1")),
        ("r.openai.azure.com/openai/v1", None, v1(f"{R}/openai/v1")),
        (R, GA, classic(f"{R}/openai")),
        (f"{R}/", GA, classic(f"{R}/openai")),
        (f"{R}/openai", GA, classic(f"{R}/openai")),
        (f"{R}/openai/", PREVIEW, classic(f"{R}/openai", PREVIEW)),
        (f"{R}/openai?api-version={GA}", None, classic(f"{R}/openai")),
        (f"{R}/openai/?api-version={GA}", None, classic(f"{R}/openai")),
        (f"{R}?api-version={GA}", None, classic(f"{R}/openai")),
        (f"{R}/?API-Version={PREVIEW}", None, classic(f"{R}/openai", PREVIEW)),
        (f"{R}?api-version={GA}", GA, classic(f"{R}/openai")),
        (f"{R}/openai/v1?api-version=v1", None, v1(f"{R}/openai/v1", "v1")),
        (f"{R}/openai/v1/?api-version=preview", None, v1(f"{R}/openai/v1", "preview")),
        (R, "v1", v1(f"{R}/openai/v1", "v1")),
        (R, " ", v1(f"{R}/openai/v1")),
        (S, None, v1(f"{S}/openai/v1")),
        (f"{S}/openai/v1/", None, v1(f"{S}/openai/v1")),
        (f"{S}/", GA, classic(f"{S}/openai")),
        ("https://r.openai.azure.us", None, v1("https://r.openai.azure.us/openai/v1")),
        ("https://r.openai.azure.cn/openai", GA, classic("https://r.openai.azure.cn/openai")),
        ("http://127.0.0.1:4000", None, v1("http://127.0.0.1:4000/openai/v1", is_azure=False)),
        ("http://127.0.0.1:4000/openai", GA, classic("http://127.0.0.1:4000/openai", is_azure=False)),
        ("https://gateway.test/team/openai", None, v1("https://gateway.test/team/openai/v1", is_azure=False)),
        ("https://gateway.test/team/openai/v1", None, v1("https://gateway.test/team/openai/v1", is_azure=False)),
        (
            "https://openai.azure.com.evil.test",
            None,
            v1("https://openai.azure.com.evil.test/openai/v1", is_azure=False),
        ),
    ],
)
def test_an_address_means(pasted: str, version: str | None, meant: Address) -> None:
    assert address_of(pasted, version) == meant
    assert meant.scope == (V1_SCOPE if meant.is_v1 else CLASSIC_SCOPE)


@pytest.mark.parametrize(
    ("pasted", "version", "problem"),
    [
        (f"{R}/openai/deployments/x/chat/completions?api-version={GA}", None, "it leads to one deployment"),
        (f"{R}/openai/deployments/x", GA, "it leads to one deployment"),
        (f"{R}/openai/v1/chat/completions", None, "ends elsewhere"),
        (f"{R}/openai/v1/responses", None, "ends elsewhere"),
        (f"{R}/openai/responses?api-version={PREVIEW}", None, "ends elsewhere"),
        (f"{R}/openai/batches?api-version={GA}", None, "ends elsewhere"),
        (f"{R}/openai/v1/openai/v1", None, "ends elsewhere"),
        (f"{R}/v1", None, "ends elsewhere"),
        (f"{S}/models", None, "ends elsewhere"),
        (f"{S}/api/projects/p", None, "ends elsewhere"),
        (f"{R}/openai/v1", GA, "has no dated api-version"),
        (f"{R}/openai/v1?api-version={GA}", None, "has no dated api-version"),
        (f"{R}?api-version={GA}", PREVIEW, f"several api-versions, with the connection's own: {GA}, {PREVIEW}"),
        (R, "2024-10", "its api-version '2024-10' is none"),
        (R, "latest-and-greatest", "is none"),
        ("http://r.openai.azure.com", None, "does not begin with https://"),
        ("ftp://r.openai.azure.com", None, "does not begin with https://"),
        ("https://", None, "does not begin with https://"),
    ],
)
def test_an_address_that_means_something_else_is_refused_with_the_shape_to_give(
    pasted: str, version: str | None, problem: str
) -> None:
    with pytest.raises(ConnectionSettingsError) as refused:
        address_of(pasted, version)
    message = str(refused.value)
    host = pasted.partition("://")[2].partition("/")[0].partition("?")[0] or "NAME.openai.azure.com"
    assert problem in message
    assert message.endswith(
        f"Nothing was sent. Give https://{host}/openai/v1, or https://{host} with a dated api_version such as {GA}."
    )


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(ConnectionSettingsError) as refused:
        address_of("https://me:s3cret-word@r.openai.azure.com/models")
    assert "s3cret-word" not in str(refused.value)


@pytest.fixture
def canned() -> Iterator[FaultProxy]:
    with fault_proxy() as proxy:
        answer = b'{"id": "x-1", "status": "processed", "data": []}'
        for method in ("GET", "POST", "DELETE"):
            proxy.rule(method, "", Answer(200, answer), times=None)
        yield proxy


@pytest.mark.parametrize(
    ("path", "version", "prefix", "query"),
    [
        ("", None, "/openai/v1", ""),
        ("/openai/v1/", "v1", "/openai/v1", "api-version=v1"),
        ("/", GA, "/openai", f"api-version={GA}"),
    ],
)
def test_every_call_goes_to_the_same_prefix_with_the_same_version(
    canned: FaultProxy, path: str, version: str | None, prefix: str, query: str
) -> None:
    adapter = AzureAdapter(AzureSettings(canned.url + path, KEY, api_version=version))
    adapter.create_file(io.BytesIO(b"{}\n"), filename="a.jsonl")
    adapter.retrieve_file("file-1")
    adapter.delete_file("file-1")
    b"".join(adapter.file_content("file-1"))
    list(adapter.list_files(purpose="batch"))
    adapter.create_batch("file-1", endpoint="/v1/chat/completions")
    adapter.retrieve_batch("batch_1")
    adapter.cancel_batch("batch_1")
    list(adapter.list_batches(after="batch_0", limit=5))
    adapter.close()
    sent = [(r.method, *r.path.partition("?")[::2]) for r in canned.requests]
    also = f"&{query}" if query else ""
    files = "purpose=batch" if version == GA else "purpose=batch&limit=1000"  # the classic list takes no limit
    assert [(method, where, sorted(asked.split("&"))) for method, where, asked in sent] == [
        (method, f"{prefix}{where}", sorted((asked + also).lstrip("&").split("&")))
        for method, where, asked in [
            ("POST", "/files", ""),
            ("GET", "/files/file-1", ""),
            ("DELETE", "/files/file-1", ""),
            ("GET", "/files/file-1/content", ""),
            ("GET", "/files", files),
            ("GET", "/files/file-1", ""),  # whether it is processed
            ("POST", "/batches", ""),
            ("GET", "/batches/batch_1", ""),
            ("POST", "/batches/batch_1/cancel", ""),
            ("GET", "/batches", "after=batch_0&limit=5"),
        ]
    ]
    assert all("deployments" not in r.path for r in canned.requests)
