"""What may be shown. Imports nothing, because operators need it while DAG files are parsed."""

from __future__ import annotations

import re
from typing import Any

_LONGEST_TEXT = 300
#: What is looked at of a text, so that a hostile one costs nothing.
_LOOKED_AT = 2000
_URL_TAIL = re.compile(r"(?i)(https?://[^\s?#;]*)[?#;]\S*")
_SEPARATORS = r"(?:[\s().\-/\u2010-\u2015]|%20){0,3}"
_NO_PHONE_NUMBER = r"(?!\d{4}-\d\d-\d\d|\d\d?/\d\d?/\d{4}|\d{1,3}(?:\.\d{1,3}){3}(?![.\d]))"
#: Seven digits or more after a plus; without one, also no date, no IP address and no part of a longer id. Each attempt
#: of the latter has an end, so that a text of nothing else takes no more than its length.
_PHONE_NUMBER = re.compile(
    rf"(?i)(?:\+|%2B)\(?\d(?:{_SEPARATORS}\d){{6,}}"
    rf"|(?<![\w-])(?<!\d[./]){_NO_PHONE_NUMBER}\(?\d(?:{_SEPARATORS}\d){{6,63}}(?![\w-])"
)
#: Up to the domain, which may help; each part has an end, so that a long text takes no more than its length.
_MAILBOX = re.compile(r"(?i)[\w.+-]{1,64}(?:@|%40)(?=[\w-]{1,63}\.)")


def scrub(text: str, token: str) -> str:
    """Shorten foreign text to one printable line, without the token, phone numbers, mailboxes and queries of URLs."""
    words = text.replace(token, "***")[:_LOOKED_AT].split()
    line = "".join(character for character in " ".join(words) if character.isprintable())
    # Once more: what cannot be printed may have stood within it.
    line = _MAILBOX.sub("***@", _URL_TAIL.sub(r"\1?***", line.replace(token, "***")))
    line = _PHONE_NUMBER.sub("***", line)
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}…"


def shown(name: object, value: Any) -> Any:
    """Return a field of a payload as it may be shown: no phone number or e-mail of a customer, no secret of a URL."""
    if value is None:
        return None
    if re.search("(?i)phone|mobile|participant_email", str(name)) or not isinstance(value, (str, int, float)):
        return "***"
    if "url" in str(name).lower():
        # The query may be a signature, what stands before the host a password.
        public = re.fullmatch(r"(https?://)(?:[^\s/?#;@]*@)?([^\s?#;@]+)(.*)", str(value), re.DOTALL)
        value = public[1] + public[2] + ("?***" if public[3] else "") if public else "***"
    # A phone number may be a number; any other number stays one.
    text = str(value)
    masked = _PHONE_NUMBER.sub("***", text)
    return value if masked == text else masked
