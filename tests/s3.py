"""Object storage for tests: an S3 server on loopback, and ``memory://``.

An S3 path without a connection (``s3://bucket/…``) and one with it (``s3://aws_default@bucket/…``) both reach the
server. Processes that a test starts reach it too, given :attr:`S3Lake.environment`.
"""

from __future__ import annotations

import json
import logging
import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest

_ACCESS = {"AWS_ACCESS_KEY_ID": "loopback", "AWS_SECRET_ACCESS_KEY": "loopback", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class S3Lake:
    """A bucket, seen from outside of Airflow and of its caches."""

    bucket: str
    endpoint: str
    environment: Mapping[str, str]
    client: Any = field(repr=False)

    @property
    def url(self) -> str:
        """A folder that nothing is in yet, by the connection ``aws_default``."""
        return f"s3://aws_default@{self.bucket}/lake"

    @property
    def plain_url(self) -> str:
        """The same folder without a connection."""
        return f"s3://{self.bucket}/lake"

    def put(self, key: str, content: bytes) -> None:
        """Write a file as another process would."""
        self.client.put_object(Bucket=self.bucket, Key=f"lake/{key}", Body=content)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.bucket, Key=f"lake/{key}")["Body"].read())

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"lake/{key}")

    def paths(self) -> list[str]:
        """Every file below the folder, by its path from there."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix="lake/")
        return [item["Key"].removeprefix("lake/") for page in pages for item in page.get("Contents", ())]


def forget_stores(*protocols: str) -> None:
    """Let the next path have a filesystem of its own, as in another process."""
    from airflow.sdk.io.store import _STORE_CACHE
    from fsspec import get_filesystem_class

    for alias in [alias for alias in _STORE_CACHE if alias.split("-")[0] in protocols]:
        del _STORE_CACHE[alias]
    for protocol in protocols:
        get_filesystem_class(protocol).clear_instance_cache()


@contextmanager
def s3_lake(bucket: str = "bucket") -> Iterator[S3Lake]:
    """Run an S3 server with one empty bucket, behind the connection ``aws_default``."""
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.moto_server.threaded_moto_server").ThreadedMotoServer(
        # A name instead of a number would have the name of the bucket put before it.
        ip_address="127.0.0.1",
        port=0,
        verbose=False,
    )
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    connection = {
        "conn_type": "aws",
        "login": _ACCESS["AWS_ACCESS_KEY_ID"],
        "password": _ACCESS["AWS_SECRET_ACCESS_KEY"],
        "extra": {"endpoint_url": endpoint, "region_name": _ACCESS["AWS_DEFAULT_REGION"]},
    }
    environment = {
        **_ACCESS,
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
        "AWS_ENDPOINT_URL_S3": endpoint,
        # Nothing of a user's own account is looked for.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    try:
        with patch.dict(os.environ, environment):
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
                os.environ.pop(name, None)
            forget_stores("s3")
            client = boto3.client("s3")
            client.create_bucket(Bucket=bucket)
            yield S3Lake(bucket, endpoint, environment, client)
            client.close()
    finally:
        forget_stores("s3")
        # What moto keeps belongs to the process, not to the server.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(f"{endpoint}/moto-api/reset", data=b"").close()
        server.stop()


@contextmanager
def memory_lake() -> Iterator[str]:
    """Yield the URL of an empty folder in memory, which Airflow does not know unless told."""
    from airflow.sdk.io import attach
    from fsspec.implementations.memory import MemoryFileSystem

    def forget() -> None:
        forget_stores("memory")
        # Of the class, not of an instance.
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    forget()
    attach("memory", fs=MemoryFileSystem())
    try:
        yield "memory://lake"
    finally:
        forget()


@pytest.fixture(name="s3_lake")
def _s3_lake() -> Iterator[S3Lake]:
    with s3_lake() as lake:
        yield lake


@pytest.fixture(name="memory_lake")
def _memory_lake() -> Iterator[str]:
    with memory_lake() as url:
        yield url
