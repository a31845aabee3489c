"""What ``throttle_url`` names: a store of slots, its host, and what must not be shown of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.privacy import scrub
from airflow_provider_dstny.api.slots.base import Slots
from airflow_provider_dstny.api.slots.sqlite import SqliteSlots

_FORMS = "redis://host:6379/0, rediss://…, postgresql://user@host/database, or the absolute path of an SQLite file"


@dataclass(frozen=True, slots=True)
class Address:
    """A checked ``throttle_url``.

    :param place: kind and host or path, as they may be shown.
    :param secrets: passwords within the URL, as they are written and as they are meant.
    """

    kind: str
    url: str = field(repr=False)
    place: str
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address; ``${NAME}`` stands for a variable of the environment.

        :raises DstnyValidationError: it names no store, or a variable that is not set.
        """
        url = os.path.expandvars(text.strip())
        if missing := re.search(r"\$\{\w+\}", url):
            raise _unusable(f"the environment has no {missing[0]}")
        if url.startswith("/"):
            return cls._of_file(url)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        # As SQLAlchemy writes it, the scheme names a driver, too.
        scheme = parts.scheme.partition("+")[0]
        if scheme == "sqlite" and not host:
            return cls._of_file(re.sub("^/+", "/", parts.path))
        kinds = {"redis": "Redis", "rediss": "Redis", "postgresql": "PostgreSQL", "postgres": "PostgreSQL"}
        if scheme not in kinds or not (host or (scheme.startswith("postgres") and parts.query)):
            raise _unusable(f"it must be {_FORMS}")
        fields = parse_qs(parts.query).items()
        written = [parts.password or "", *(value for name, [value, *_] in fields if name.endswith("password"))]
        secrets = dict.fromkeys(one for password in written for one in (password, unquote(password)) if one)
        at = f" at {host}" + (f":{port}" if port else "") if host else ""
        return cls(kinds[scheme], scheme + url[len(parts.scheme) :], kinds[scheme] + at, tuple(secrets))

    @classmethod
    def _of_file(cls, path: str) -> Self:
        if not Path(path).parent.is_dir() or Path(path).is_dir():
            raise _unusable(f"{path} cannot be a file, or its folder is missing")
        return cls("SQLite", path, f"The SQLite file {path}")

    def show(self, error: Exception) -> str:
        """Return an error of the store as it may be shown: its kind, and a line of what it says."""
        said = str(error)
        for secret in self.secrets:
            said = said.replace(secret, "***")
        return scrub(f"{type(error).__name__}: {said}", self.url)

    def open(self) -> Slots:
        """Return the slots that are kept there. Nothing is connected yet.

        :raises DstnyValidationError: the driver is not installed, or cannot use the URL.
        """
        if self.kind == "SQLite":
            return SqliteSlots(Path(self.url))
        try:
            if self.kind == "Redis":
                from airflow_provider_dstny.api.slots.redis import RedisSlots

                return RedisSlots(self.url)
            from airflow_provider_dstny.api.slots.postgres import PostgresSlots

            return PostgresSlots(self.url)
        except ImportError:
            extra = {"Redis": "redis", "PostgreSQL": "postgres"}[self.kind]
            error = _unusable(f"{self.kind} needs a driver: pip install 'airflow-provider-dstny[{extra}]'")
        except (ValueError, TypeError):
            error = _unusable(f"its driver cannot use it; it must be {_FORMS}")
        # Raised here: the driver's own error names parts of the URL.
        raise error


def _unusable(reason: str) -> DstnyValidationError:
    return DstnyValidationError(None, f"throttle_url: {reason}.")
