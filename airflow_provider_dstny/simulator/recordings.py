"""Sample recordings of any size, made on the spot: the same bytes for the same name."""

from __future__ import annotations

import io
import math
import re
import struct
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from zlib import crc32

from airflow_provider_dstny.simulator.samples import seeded

_RATE = 8000
_MEDIA_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg", "mp4": "video/mp4", "bin": "application/octet-stream"}
_NAME = re.compile(rf"(?:big-(?P<size>\d{{1,15}})|.+)\.(?P<kind>{'|'.join(_MEDIA_TYPES)})")
_RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")


@dataclass(frozen=True)
class Recording:
    """A recording of ``size`` bytes: ``block``, from ``shift`` on, again and again."""

    name: str
    size: int
    media_type: str
    block: bytes = field(repr=False)
    shift: int = 0

    @property
    def etag(self) -> str:
        return f'"{crc32(self.name.encode()):08x}-{self.size:x}"'

    def chunks(self, first: int = 0, last: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from ``first`` to ``last``, both included, in pieces of at most a MiB."""
        end = self.size if last is None else last + 1
        while first < end:
            start = (self.shift + first) % len(self.block)
            piece = self.block[start : start + end - first]
            yield piece
            first += len(piece)

    def range(self, header: str | None) -> tuple[int, int] | None:
        """Read a Range header: first and last byte, None for the whole; ``first`` may lie behind the end.

        What is not a single range of bytes is ignored, as HTTP has it.
        """
        match = _RANGE.fullmatch(header or "")
        if match is None:
            return None
        first, last, suffix = match.groups()
        if suffix is not None:
            return max(0, self.size - int(suffix)) if int(suffix) else self.size, self.size - 1
        if last and int(last) < int(first):
            return None
        return int(first), min(int(last or self.size), self.size - 1)


def recording(name: str) -> Recording | None:
    """Return the recording of a name: ``….wav`` can be played, ``big-<bytes>.bin`` is as large as it says."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    media_type = _MEDIA_TYPES[match["kind"]]
    key = crc32(name.encode())
    if match["size"] is not None:
        return Recording(name, int(match["size"]), media_type, _noise(), key % len(_noise()))
    if match["kind"] == "wav":
        tone = wav(name)
        return Recording(name, len(tone), media_type, tone)
    return Recording(name, 20_000 + key % 40_000, media_type, _noise(), key % len(_noise()))


@lru_cache(maxsize=64)
def wav(name: str) -> bytes:
    """Return half a second of mono 16-bit WAV with a tone that depends on the name."""
    pitch = 220 + sum(name.encode()) % 660
    samples = (int(8000 * math.sin(2 * math.pi * pitch * n / _RATE)) for n in range(_RATE // 2))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(_RATE)
        out.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return buffer.getvalue()


@cache
def _noise() -> bytes:
    return seeded("recordings").randbytes(1 << 20)
