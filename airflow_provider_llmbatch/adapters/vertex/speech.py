"""What kinds of things an answer may be made of, and whose voice speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_provider_llmbatch.adapters.vertex.refused import LineRefused, refuse_unless_dropped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

_MODALITIES: Final = {"text": "TEXT", "image": "IMAGE", "audio": "AUDIO"}
_OPENAI_VOICES: Final = frozenset(
    "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse".split()  # noqa: SIM905 - one a line
)
_PCM: Final = "pcm16"


def modalities_config(
    modalities: Sequence[str], audio: Mapping[str, str] | None, drop_params: AbstractSet[str]
) -> dict[str, object]:
    """``responseModalities`` and ``speechConfig``.

    :param audio: OpenAI's ``voice`` and ``format``; Gemini has voices of its own, and one format.
    :raises LineRefused: Gemini has no such kind, voice or format.
    """
    config: dict[str, object] = {}
    if unknown := [kind for kind in modalities if kind not in _MODALITIES]:
        raise LineRefused(f'has the modality "{unknown[0]}"; it can be text, image or audio', "modalities")
    if modalities:
        config["responseModalities"] = [_MODALITIES[kind] for kind in modalities]
    if not audio:
        return config
    if other := sorted(audio.keys() - {"voice", "format"}):
        refuse_unless_dropped(f"audio.{other[0]}", f'has "audio.{other[0]}", which Gemini cannot do', drop_params)
    if audio.get("format", _PCM) != _PCM:
        refuse_unless_dropped(
            "audio.format", f'has the audio.format "{audio["format"]}", and Gemini answers in {_PCM}', drop_params
        )
    voice = audio.get("voice")
    if voice in _OPENAI_VOICES:
        refuse_unless_dropped(
            "audio.voice", f'has the audio.voice "{voice}", and Gemini has its own, such as Kore or Puck', drop_params
        )
    elif voice is not None and "audio.voice" not in drop_params:
        config["speechConfig"] = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": voice}}}
    return config
