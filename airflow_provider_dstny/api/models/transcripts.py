"""One transcript for every shape in which the APIs are known to send one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import isfinite
from typing import Any, Self

from pydantic import Field

from airflow_provider_dstny.api.models.base import Answer

_SHAPES = ("segments", "sentences", "messages", "utterances", "paragraphs")
_WRAPPERS = ("transcript", "transcription", "data")
TEXT_KEYS = ("text", "content", "sentence")
SPEAKER_KEYS = ("speaker", "speaker_name", "name", "role", "speaker_id")
START_KEYS = ("start", "start_seconds", "start_time", "start_time_seconds", "startTime")
END_KEYS = ("end", "end_seconds", "end_time", "end_time_seconds", "endTime")
#: Fields that do not tell of a transcript in a shape that is not known.
_UNTELLING = {
    *_SHAPES,
    *_WRAPPERS,
    *TEXT_KEYS,
    *SPEAKER_KEYS,
    *START_KEYS,
    *END_KEYS,
    "id",
    "conversation_id",
    "status",
    "message",
    "_meta",
}


class TranscriptSegment(Answer):
    """What one speaker said. Times are seconds from the start, None where the source has none."""

    index: int
    speaker: str | None = None
    text: str = Field(repr=False)
    start_seconds: float | None = None
    end_seconds: float | None = None


class Transcript(Answer):
    """The transcript of a conversation.

    :param source_shape: under which name the API sent the segments (``segments``, ``sentences``,
        ``messages``, …), ``list`` for a bare list, ``text`` for one text in a field, ``empty`` for none, or
        ``unknown`` with the field names when there was something that is not known as a transcript.
    """

    conversation_id: str
    segments: list[TranscriptSegment] = Field(default_factory=list, repr=False)
    source_shape: str = "empty"

    @property
    def is_ready(self) -> bool:
        """False for every answer that is known to mean "not yet": null, ``[]``, ``[{}]``, no segments."""
        return bool(self.segments)

    @classmethod
    def from_answer(cls, conversation_id: str, body: Any) -> Self:
        """Read a transcript out of any of the known shapes."""
        # A bare text is more likely the API telling that there is nothing yet.
        found = [] if isinstance(body, str) else list(_find(body, "list"))
        segments = [
            TranscriptSegment(
                index=index,
                speaker=_first_text(item, SPEAKER_KEYS),
                text=text,
                start_seconds=_first_number(item, START_KEYS),
                end_seconds=_first_number(item, END_KEYS),
                raw=item,
            )
            for index, (_, item, text) in enumerate(found)
        ]
        shape = found[0][0] if found else _shape_of_nothing(body)
        return cls(conversation_id=conversation_id, segments=segments, source_shape=shape, raw=body)

    def to_row(self) -> dict[str, Any]:
        """Return one row of a file: ``conversation_id``, ``source_shape`` and the ``segments`` as objects."""
        names = ("index", "speaker", "text", "start_seconds", "end_seconds")
        return {
            "conversation_id": self.conversation_id,
            "source_shape": self.source_shape,
            "segments": [{name: getattr(segment, name) for name in names} for segment in self.segments],
        }


def has_text(body: Any) -> bool:
    """Tell whether an answer has a transcript, as :attr:`Transcript.is_ready` does, without reading it whole."""
    return not isinstance(body, str) and next(_find(body, "list"), None) is not None


def _find(node: Any, shape: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield (shape, item, text) for everything that was said, in order."""
    if isinstance(node, str) and node.strip():
        yield shape, {}, node.strip()
    elif isinstance(node, list):
        for item in node:
            text = _said(item) if isinstance(item, dict) else None
            if text is None:
                yield from _find(item, shape)
            else:
                yield shape, item, text
    elif isinstance(node, dict):
        for name in (*_SHAPES, *_WRAPPERS, "text"):
            if node.get(name):
                inner = node[name]
                inner_shape = name if name in _SHAPES else "text" if isinstance(inner, str) else shape
                yield from _find(inner, inner_shape)
                return


def _said(item: dict[str, Any]) -> str | None:
    text = _first_text(item, TEXT_KEYS)
    if text is None and _first_text(item, SPEAKER_KEYS) is not None:
        # Without a speaker, "message" is more likely the API telling that there is nothing yet.
        text = _first_text(item, ("message",))
    return text


def _first_text(item: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    for key in keys:
        value = item.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return None


def _first_number(item: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    for key in keys:
        value = item.get(key)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            with suppress(ValueError, OverflowError):
                if isfinite(number := float(value)):
                    return number
    return None


def _shape_of_nothing(body: Any) -> str:
    if isinstance(body, str) and body.strip():
        return "unknown: a bare text"
    strange = sorted(set(_strange_names(body)))
    return f"unknown: {', '.join(strange[:10])}" if strange else "empty"


def _strange_names(node: Any) -> Iterator[str]:
    """Yield the names of fields, at any depth, that may hold what was said in a way that is not known."""
    if isinstance(node, list):
        for item in node[:10]:
            yield from _strange_names(item)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name == "status" and isinstance(value, str) and value.isidentifier():
                yield f"status={value}"
            elif value and name not in _UNTELLING:
                yield str(name)[:40]
            elif name in _SHAPES or name in _WRAPPERS:
                yield from _strange_names(value)
