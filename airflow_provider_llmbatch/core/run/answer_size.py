"""How long the answer to a request may be, as its body says."""

from __future__ import annotations

from typing import Final

import msgspec

_MOST_DIGITS: Final = 12  # of a number of tokens
_ABSENT: Final = msgspec.Raw(b"")


class AnswerSize(msgspec.Struct, gc=False):
    """How long answers may be, and how many there are; what is no whole number is the provider's to refuse."""

    max_tokens: msgspec.Raw = _ABSENT
    max_completion_tokens: msgspec.Raw = _ABSENT
    max_output_tokens: msgspec.Raw = _ABSENT
    n: msgspec.Raw = _ABSENT

    def bound(self) -> int | None:
        """Output tokens of one answer, under whichever name."""
        for given in (self.max_completion_tokens, self.max_tokens, self.max_output_tokens):
            if given is not _ABSENT and (count := _whole(given)) is not None:
                return count
        return None

    def answers(self) -> int:
        return 1 if self.n is _ABSENT else _whole(self.n) or 1


def _whole(raw: msgspec.Raw) -> int | None:
    digits = bytes(raw)
    return int(digits) if 0 < len(digits) < _MOST_DIGITS and digits.isdigit() else None
