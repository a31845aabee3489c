"""The lake export against a server of S3, with a run that is killed at each of its writes."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from airflow_provider_dstny.api import DstnyRestClient
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.windows import Interval
from airflow_provider_dstny.landing.export import Export, Options
from airflow_provider_dstny.landing.lake import Lake
from airflow_provider_dstny.landing.lineage import dataset_name
from airflow_provider_dstny.simulator import Simulator
from tests.s3 import _s3_lake  # noqa: F401 - a fixture

LAYOUT = LAYOUTS["dstny_rest"]


class Killed(BaseException):
    """Stands for a kill."""


@pytest.fixture
def simulator():
    with Simulator(requests_per_minute=None, samples=12, fresh=0) as running:
        yield running


def land(simulator, path, end, file_format="parquet"):
    options = Options(
        interval=Interval(end - timedelta(hours=1), end),
        tables=frozenset(LAYOUT.tables),
        file_format=file_format,
        redaction=Redaction.parse(None, LAYOUT),
        source_name="dstny_rest_default",
        lookback=timedelta(days=2),
        sweep_every=timedelta(days=7),
        give_up_after=timedelta(days=7),
    )

    async def run():
        async with DstnyRestClient(simulator.url, simulator.rest_token, requests_per_minute=1e6) as client:
            return await Export(client, path, options).run()

    return asyncio.run(run())


def contents(bucket):
    return {key: bucket.get(key) for key in bucket.paths() if not key.startswith(("_dstny/", "raw/"))}


@pytest.mark.parametrize("with_connection", [True, False])
def test_an_export_lands_in_a_bucket_and_repeats_byte_by_byte(simulator, s3_lake, with_connection):
    path = s3_lake.url if with_connection else s3_lake.plain_url
    end = datetime.now(UTC)
    outcome = land(simulator, path, end)
    assert outcome.counts["complete"] == 12
    landed = contents(s3_lake)
    named = {file.path for file in outcome.manifest.files}
    assert set(landed) <= named
    assert named <= set(s3_lake.paths())
    assert not [key for key in s3_lake.paths() if key.endswith(".partial") or "unfinished" in key]
    assert land(simulator, path, end).counts["read"] == 0
    assert contents(s3_lake) == landed
    assert land(simulator, path, end + timedelta(hours=1)).counts["read"] == 0


def test_a_kill_at_any_write_loses_and_doubles_nothing(simulator, s3_lake, monkeypatch):
    end = datetime.now(UTC)
    counter = SimpleNamespace(writes=0, deadly=0)
    write = Lake._write

    def counted(lake, path, pieces):
        counter.writes += 1
        if counter.writes == counter.deadly:
            raise Killed
        write(lake, path, pieces)

    monkeypatch.setattr(Lake, "_write", counted)
    expected = None
    for counter.deadly in (0, *range(2, 40, 9)):
        for key in s3_lake.paths():
            s3_lake.delete(key)
        counter.writes = 0
        try:
            land(simulator, s3_lake.url, end, "jsonl")
        except Killed:
            land(simulator, s3_lake.url, end, "jsonl")
        expected = expected or contents(s3_lake)
        assert contents(s3_lake) == expected
    manifest = json.loads(s3_lake.get(next(key for key in s3_lake.paths() if key.startswith("_dstny/manifests"))))
    assert {file["path"] for file in manifest["files"]} >= set(expected)


def test_lineage_names_buckets_without_their_connection(s3_lake):
    assert dataset_name(f"{s3_lake.url}/conversations") == ("s3://bucket", "lake/conversations")
    assert dataset_name(f"{s3_lake.plain_url}/conversations") == ("s3://bucket", "lake/conversations")
    assert dataset_name("file:///data/lake/conversations") == ("file", "/data/lake/conversations")
