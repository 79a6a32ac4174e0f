"""The bill checked by hand for models of all three providers, each answer with every kind of token that it may have.

The prices are those that the providers' pages had when genai-prices read them: OpenAI's table of batches
(https://developers.openai.com/api/docs/pricing) and the Batch tab of Gemini's
(https://ai.google.dev/gemini-api/docs/pricing), both on 2026-10-14; embeddings and Azure's own list by the providers'
rule of half the standard price.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest

from airflow_provider_llmbatch.core.costs.meter import Meter
from airflow_provider_llmbatch.core.costs.prices import Prices
from airflow_provider_llmbatch.core.run.content import content_of

if TYPE_CHECKING:
    from collections.abc import Callable

NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
USUAL = (1200, 200, 0, 0, 300)
SCRIPT = Path(__file__).with_name("litellm_costs.py")


class Case(NamedTuple):
    """:param usage: Tokens in, of which read from the cache, of which written to it, of which audio; tokens out.
    :param batch: Dollars per million times tokens, as one writes it down on paper; ``single`` without a batch.
    """

    provider: str
    model: str
    usage: tuple[int, int, int, int, int]
    batch: str
    single: str


CASES = [
    # Input 0.125, cached 0.0125, output 1; standard 0.25, 0.025, 2.
    Case("openai", "gpt-5-mini-2025-08-07", USUAL, "1000*0.125+200*0.0125+300*1", "1000*0.25+200*0.025+300*2"),
    # Input 0.075, output 0.30, no cached price in a batch: the standard one, 0.075; standard 0.15, 0.075, 0.60.
    Case("openai", "gpt-4o-mini-2024-07-18", USUAL, "1000*0.075+200*0.075+300*0.3", "1000*0.15+200*0.075+300*0.6"),
    # Input 0.20, output 0.80, cached as without a batch 0.10; standard 0.40, 1.60.
    Case("openai", "gpt-4.1-mini", USUAL, "1000*0.2+200*0.1+300*0.8", "1000*0.4+200*0.1+300*1.6"),
    # Input 1, output 4, cached 0.50; standard 2, 8.
    Case("openai", "o3", USUAL, "1000*1+200*0.5+300*4", "1000*2+200*0.5+300*8"),
    # Input 2.50, cached 0.25, output 15; above 272,000 tokens 5, 0.50, 22.50; standard twice that.
    Case("openai", "gpt-5.5", (272_000, 2_000, 0, 0, 300), "270000*2.5+2000*0.25+300*15", "270000*5+2000*0.5+300*30"),
    Case("openai", "gpt-5.5", (272_001, 2_000, 0, 0, 300), "270001*5+2000*0.5+300*22.5", "270001*10+2000*1+300*45"),
    # Input 0.10, written to the cache 0.125 (1.25 times), read from it 0.01, output 0.60; standard twice that.
    Case(
        "openai",
        "gpt-5.6-luna",
        (1200, 200, 400, 0, 300),
        "600*0.1+200*0.01+400*0.125+300*0.6",
        "600*0.2+200*0.02+400*0.25+300*1.2",
    ),
    # Input 0.05, written 0.0625, read 0.005, output 0.25; standard twice that.
    Case(
        "openai",
        "gpt-6-luna",
        (1200, 200, 400, 0, 300),
        "600*0.05+200*0.005+400*0.0625+300*0.25",
        "600*0.1+200*0.01+400*0.125+300*0.5",
    ),
    # Standard 0.02, and half of it in a batch.
    Case("openai", "text-embedding-3-small", (1200, 0, 0, 0, 0), "1200*0.01", "1200*0.02"),
    # Standard 0.13, and half of it.
    Case("openai", "text-embedding-3-large", (1200, 0, 0, 0, 0), "1200*0.065", "1200*0.13"),
    # Azure's global deployments cost what OpenAI's models do.
    Case("azure", "gpt-4o-mini-2024-07-18", USUAL, "1000*0.075+200*0.075+300*0.3", "1000*0.15+200*0.075+300*0.6"),
    Case("azure", "gpt-5-mini-2025-08-07", USUAL, "1000*0.125+200*0.0125+300*1", "1000*0.25+200*0.025+300*2"),
    # On Azure's own list: standard 1.10, 0.275, 4.40; half of input and output.
    Case("azure", "o4-mini-2025-04-16", USUAL, "1000*0.55+200*0.275+300*2.2", "1000*1.1+200*0.275+300*4.4"),
    # Input 0.15, audio 0.50, output 1.25 with thoughts; the cache's discount does not stack: 0.03 as without a batch.
    Case(
        "google",
        "gemini-2.5-flash",
        (1200, 200, 0, 100, 300),
        "900*0.15+200*0.03+100*0.5+300*1.25",
        "900*0.3+200*0.03+100*1+300*2.5",
    ),
    # Input 0.05, audio 0.15, output 0.20; cached 0.01.
    Case(
        "google",
        "gemini-2.5-flash-lite",
        (1200, 200, 0, 100, 300),
        "900*0.05+200*0.01+100*0.15+300*0.2",
        "900*0.1+200*0.01+100*0.3+300*0.4",
    ),
    # Input 0.625, output 5, cached 0.125; above 200,000 tokens 1.25, 7.50, 0.25; standard 1.25, 10 and 2.50, 15.
    Case(
        "google",
        "gemini-2.5-pro",
        (200_000, 1_000, 0, 0, 300),
        "199000*0.625+1000*0.125+300*5",
        "199000*1.25+1000*0.125+300*10",
    ),
    Case(
        "google",
        "gemini-2.5-pro",
        (200_001, 1_000, 0, 0, 300),
        "199001*1.25+1000*0.25+300*7.5",
        "199001*2.5+1000*0.25+300*15",
    ),
    # Input 0.375, cached 0.0375, output 1.875: here a batch halves the cache's price too.
    Case("google", "gemini-3.8-flash", USUAL, "1000*0.375+200*0.0375+300*1.875", "1000*0.75+200*0.075+300*3.75"),
    # Input 0.25, output 1.50, audio 0.50; cached 0.05 as without a batch.
    Case("google", "gemini-3-flash-preview", USUAL, "1000*0.25+200*0.05+300*1.5", "1000*0.5+200*0.05+300*3"),
    # No batch price is known to genai-prices; Google's rule halves input and output: 1.50, 9; cached 0.15.
    Case("google", "gemini-3.5-flash", USUAL, "1000*0.75+200*0.15+300*4.5", "1000*1.5+200*0.15+300*9"),
]


def on_paper(sum_: str) -> Decimal:
    terms = (term.split("*") for term in sum_.split("+"))
    return sum((Decimal(count) * Decimal(rate) for count, rate in terms), Decimal(0)) / 1_000_000


def body_of(case: Case) -> dict[str, Any]:
    taken, cached, written, heard, given = case.usage
    details = {"cached_tokens": cached, "cache_write_tokens": written, "audio_tokens": heard}
    usage: dict[str, Any] = {"prompt_tokens": taken, "total_tokens": taken + given, "prompt_tokens_details": details}
    if "embedding" in case.model:
        return {"model": case.model, "object": "list", "data": [{"embedding": [0.5]}], "usage": usage}
    usage |= {"completion_tokens": given, "completion_tokens_details": {"reasoning_tokens": given // 2}}
    message = {"role": "assistant", "content": "Yes."}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": case.model,
        "choices": choices,
        "usage": usage,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.provider} {case.model} {case.usage[0]}")
def test_an_answer_costs_what_it_does_on_paper(case: Case) -> None:
    meter = Meter(Prices(case.provider), NOVEMBER, None)
    content = content_of(msgspec.json.encode(body_of(case)))
    cost = meter.answered(content.model, content.tokens)
    costs = meter.costs()
    assert (Decimal(cost.decode()), costs.total_usd, costs.standard_usd) == (
        on_paper(case.batch),
        on_paper(case.batch),
        on_paper(case.single),
    )


LITELLM_DIFFERS = {
    # Where its table has no cached price in a batch, it bills cached tokens as any other input.
    ("openai", "gpt-4.1-mini", 1200): "1200*0.2+300*0.8",
    ("openai", "o3", 1200): "1200*1+300*4",
    ("azure", "o4-mini-2025-04-16", 1200): "1200*0.55+300*2.2",
    ("google", "gemini-2.5-flash", 1200): "1100*0.15+100*0.5+300*1.25",
    ("google", "gemini-3-flash-preview", 1200): "1200*0.25+300*1.5",
    ("google", "gemini-2.5-pro", 200_000): "200000*0.625+300*5",
    # And it has no batch price of audio there.
    ("google", "gemini-2.5-flash-lite", 1200): "1200*0.05+300*0.2",
    # It has no batch price of long prompts.
    ("google", "gemini-2.5-pro", 200_001): "200001*0.625+300*5",
    # It has no batch price at all, and halves that of cached tokens too, which Google rules out.
    ("google", "gemini-3.5-flash", 1200): "1000*0.75+200*0.075+300*4.5",
}
LITELLMS_NAMES = {"google": "vertex_ai"}


def test_litellm_comes_to_the_same_but_for_what_its_table_lacks(
    litellm_python: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(
        "".join(
            json.dumps(
                {
                    "id": f"batch_req_{number}",
                    "custom_id": f"{LITELLMS_NAMES.get(case.provider, case.provider)} {number}",
                    "response": {"status_code": 200, "request_id": "r", "body": body_of(case)},
                    "error": None,
                }
            )
            + "\n"
            for number, case in enumerate(CASES)
        )
    )
    run = subprocess.run(
        [litellm_python, SCRIPT, results],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    record_property("client", f"litellm {told['version']}, its costs")
    expected = [on_paper(LITELLM_DIFFERS.get((case.provider, case.model, case.usage[0]), case.batch)) for case in CASES]
    # Its numbers are floats: they are off in the sixteenth digit.
    assert [round(Decimal(cost), 15) for cost in told["costs"]] == [round(cost, 15) for cost in expected]
