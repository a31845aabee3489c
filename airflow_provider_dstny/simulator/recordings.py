"""Sample recordings: short, valid WAV files made on the spot."""

from __future__ import annotations

import io
import math
import struct
import wave
from functools import lru_cache

_RATE = 8000


@lru_cache(maxsize=64)
def wav(name: str, seconds: float = 0.5) -> bytes:
    """Return a mono 16-bit WAV with a tone that depends on the name."""
    pitch = 220 + sum(name.encode()) % 660
    samples = (int(8000 * math.sin(2 * math.pi * pitch * n / _RATE)) for n in range(int(_RATE * seconds)))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(_RATE)
        out.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return buffer.getvalue()
