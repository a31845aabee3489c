"""What may be shown. Imports nothing, because operators need it while DAG files are parsed."""

from __future__ import annotations

import re
from typing import Any

_LONGEST_TEXT = 300
_URL_TAIL = re.compile(r"(?i)(https?://[^\s?#;]*)[?#;]\S*")
_SEPARATORS = r"[\s().\-/\u2010-\u2015]{0,3}"
#: Seven digits or more after a plus; without one, also with no date and no part of a longer id.
_PHONE_NUMBER = re.compile(
    rf"(?i)(?:\+|%2B)\(?\d(?:{_SEPARATORS}\d){{6,}}|(?<![\w-])(?!\d{{4}}-\d\d-\d\d)\(?\d(?:{_SEPARATORS}\d){{6,}}(?![\w-])"
)


def scrub(text: str, token: str) -> str:
    """Shorten foreign text to one line, without the token, phone numbers and the queries of URLs."""
    line = " ".join(text.replace(token, "***").split())
    line = _PHONE_NUMBER.sub("***", _URL_TAIL.sub(r"\1?***", line))
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}…"


def shown(name: object, value: Any) -> Any:
    """Return a field of a call as it may be shown: no phone number, no secret part of a URL."""
    if value is None:
        return None
    if "phone" in str(name).lower() or not isinstance(value, (str, int, float)):
        return "***"
    if "url" in str(name).lower():
        # The query may be a signature, what stands before the host a password.
        public = re.fullmatch(r"(https?://)(?:[^\s/?#;@]*@)?([^\s?#;@]+)(.*)", str(value), re.DOTALL)
        return public[1] + public[2] + ("?***" if public[3] else "") if public else "***"
    return value
