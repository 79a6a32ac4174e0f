"""Counts the tokens of texts as OpenAI's models do; a test starts it with LiteLLM's Python, which has what they know.

Reads ``{name: text}`` from standard input, and writes ``{vocabulary: {name: tokens}}``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

found = importlib.util.find_spec("litellm")
assert found is not None
assert found.origin is not None
os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(found.origin).parent / "litellm_core_utils" / "tokenizers")

import tiktoken  # noqa: E402 - reads that variable

texts = json.load(sys.stdin)
json.dump(
    {
        name: {key: len(tiktoken.get_encoding(name).encode(text)) for key, text in texts.items()}
        for name in ("cl100k_base", "o200k_base")
    },
    sys.stdout,
)
