"""Fetching a file of any size in constant memory, resumed where the connection was cut."""

from __future__ import annotations

import logging
import mimetypes
import re
import time
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from airflow_provider_dstny.api.client import ApiClient, Opened
from airflow_provider_dstny.api.errors import (
    DstnyApiError,
    DstnyConnectionError,
    DstnyNotFoundError,
    DstnyResponseError,
    DstnyServerError,
    DstnyTimeoutError,
    DstnyValidationError,
)

#: Further attempts that got no further than the one that got furthest; one that did starts the count anew.
_FRUITLESS = 5
#: A signed URL has run out, or what it points to has moved.
_EXPIRED = frozenset({400, 401, 403, 404, 410})
_SUFFIXES = {
    "audio/mpeg": ".mp3",
    "audio/mp3": ".mp3",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/wave": ".wav",
    "audio/mp4": ".m4a",
    "audio/ogg": ".ogg",
    "audio/webm": ".webm",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}
_UNTELLING = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_MEDIA = re.compile(r"(?:audio|video)/.+|application/(?:ogg|mp4)")
#: With these, a position in the bytes is none in the file.
_COMPRESSED = re.compile(r"\b(?:gzip|x-gzip|compress|deflate|br|zstd)\b", re.IGNORECASE)

_log = logging.getLogger(__name__)


class Target(Protocol):
    """Where the bytes go."""

    def write(self, piece: bytes) -> object: ...

    def restart(self) -> None:
        """Forget what was written."""


class Download:
    """One file on its way.

    :param find_url: returns where it is; asked again when that URL is no longer accepted.
    :param name: what is fetched, for messages, which never have the URL.
    """

    def __init__(self, client: ApiClient, name: str, find_url: Callable[[], str], target: Target) -> None:
        self._client = client
        self._name = name
        self._find_url = find_url
        self._target = target
        self._url = ""
        self._total: int | None = None
        self._validator = ""
        self._fruitless = 0
        self._furthest = 0
        self.size = 0
        self.content_type = ""

    def run(self) -> None:
        """Fetch the file, resuming it as often as it gets further.

        :raises DstnyConnectionError: it got no further.
        :raises DstnyTimeoutError: it got no further in time.
        :raises DstnyApiError: the host refuses it.
        :raises DstnyResponseError: what came is no file.
        """
        passing = retry_if_exception(
            lambda error: isinstance(error, (DstnyConnectionError, DstnyTimeoutError, DstnyServerError))
        )
        Retrying(
            retry=passing,
            stop=self._got_no_further,
            wait=wait_random_exponential(multiplier=1, max=30),
            before_sleep=self._tell,
            sleep=time.sleep,
            reraise=True,
        )(self._attempt)

    def suffix(self) -> str:
        """Return how the name of the file should end, by its content type, else by its URL."""
        kind = _kind(self.content_type)
        by_url = PurePosixPath(urlsplit(self._url).path).suffix.lower()
        known = by_url if re.fullmatch(r"\.[a-z0-9]{1,5}", by_url) else ".bin"
        return known if kind in _UNTELLING else _SUFFIXES.get(kind) or mimetypes.guess_extension(kind) or known

    def _attempt(self) -> None:
        self._url = self._url or self._find_url()
        try:
            with self._client.open_url(self._url, self._range()) as opened:
                self._begin(opened)
                for piece in opened.pieces:
                    self._target.write(piece)
                    self.size += len(piece)
        finally:
            self._fruitless = 0 if self.size > self._furthest else self._fruitless + 1
            self._furthest = max(self.size, self._furthest)
        if self._total is not None and self.size != self._total:
            cause = f"{self._name} ended after {self.size} of {self._total} bytes."
            if self.size > self._total:
                self._start_over()
            raise DstnyConnectionError(cause)
        if not self.size:
            raise DstnyResponseError(f"{self._name} is empty. A retry helps only if it is not there yet.")

    def _range(self) -> Mapping[str, str]:
        if not (self.size and self._validator):
            # Without a validator, what follows may be of another file.
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._validator}

    def _begin(self, opened: Opened) -> None:
        """Find out what follows: the rest, the whole file again, or no file at all."""
        headers = opened.headers
        if opened.status == 206:
            told = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", headers.get("content-range", ""))
            total = int(told[2]) if told and told[2] != "*" else None
            if told is None or int(told[1]) != self.size or (self._total or total) != (total or self._total):
                self._start_over()
                raise DstnyConnectionError(f"{self._name} was not resumed where it ended.")
            self._total = total or self._total
        elif opened.status == 200:
            if self.size:
                _log.info("%s cannot be resumed, it starts from its beginning", self._name)
                self._start_over()
            length = headers.get("content-length", "")
            self._total = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        else:
            self._refused(opened.status)
        if not self.size:
            self._introduce(headers)

    def _introduce(self, headers: Mapping[str, str]) -> None:
        """Take note of what the first bytes are the beginning of."""
        self.content_type = headers.get("content-type", "")
        kind = _kind(self.content_type)
        if (kind not in _UNTELLING and not _MEDIA.fullmatch(kind)) or _COMPRESSED.search(
            headers.get("content-encoding", "")
        ):
            raise DstnyResponseError(
                f"{self._name}: its host answered with a page, a message or a compressed file, not with a recording. "
                "A retry fails the same way."
            )
        etag = headers.get("etag", "")
        validator = etag if etag and not etag.startswith("W/") else headers.get("last-modified", "")
        self._validator = validator if validator.isascii() and validator.isprintable() else ""

    def _start_over(self) -> None:
        self._target.restart()
        self.size, self._total = 0, None

    def _refused(self, status: int) -> None:
        message = f"{self._name}: its host does not hand it out."
        expired = status in _EXPIRED
        if expired and self.size:
            # It was accepted before: ask for a fresh one.
            self._url = ""
            raise DstnyConnectionError(f"{message} Its URL has run out ({status}).")
        if status == 416:
            self._start_over()
            raise DstnyConnectionError(f"{message} It has changed meanwhile ({status}).")
        if status >= 500 or status == 429:
            raise DstnyServerError(status, message, hint="A retry later may pass.")
        kind = DstnyNotFoundError if status in {404, 410} else DstnyApiError
        raise kind(status, message, hint="Its URL may have run out; a retry asks for a fresh one.")

    def _got_no_further(self, state: RetryCallState) -> bool:
        return self._fruitless > _FRUITLESS

    def _tell(self, state: RetryCallState) -> None:
        wait = state.upcoming_sleep
        _log.warning("%s was cut after %d bytes; it goes on in %.1f s", self._name, self.size, wait)


def preflight(client: ApiClient, name: str, url: str) -> None:
    """Ask for one byte of a file and read nothing, to see that anybody who has the URL gets the file.

    :param name: what it is, for messages, which never have the URL.
    :raises DstnyValidationError: its host answers with something else.
    :raises DstnyConnectionError: its host was not reached.
    :raises DstnyTimeoutError: its host did not answer.
    """
    with client.open_url(url, {"Range": "bytes=0-0"}) as opened:
        status, kind = opened.status, _kind(opened.headers.get("content-type", ""))
    if status >= 500 or status == 429:
        raise DstnyServerError(status, f"{name}: its host does not hand it out now.", hint="A retry later may pass.")
    if status not in {200, 206} or kind == "text/html":
        raise DstnyValidationError(
            None,
            f"{name}: its host answers {status} {kind}, but Dstny fetches it without a login and needs 200 and a "
            "recording. Nothing was sent; a retry fails the same way until the URL works.",
        )


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
