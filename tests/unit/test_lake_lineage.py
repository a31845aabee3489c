"""What an export tells OpenLineage."""

from __future__ import annotations

import pytest

from airflow_provider_dstny.export.files import DataFile, Manifest
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.landing.export import Outcome
from airflow_provider_dstny.landing.lineage import lineage_of
from airflow_provider_dstny.transfers.object_storage import DstnyToObjectStorageOperator


def outcome(*files):
    manifest = Manifest(interval="i", files=files, counts={}, requests=3, ledger="l", redaction="r")
    return Outcome(manifest=manifest, manifest_path="m", days=[], counts={}, failures={}, resets_at=None)


@pytest.mark.parametrize("end", ["", "/"])
def test_each_table_is_a_dataset_with_its_columns_and_counts(tmp_path, end):
    pytest.importorskip("airflow.providers.openlineage")
    found = lineage_of(
        outcome(
            DataFile("conversations/date=2026-02-07/i.jsonl", "conversations", 2, "00", 100),
            DataFile("conversations/date=2026-02-08/i.jsonl", "conversations", 3, "00", 50),
            DataFile("raw/conversations/i/00001-read.jsonl", "raw", 5, "00", 70),
        ),
        path=f"file://{tmp_path}{end}",
        api_url="https://api.example.com/api/v1/rest",
        layout=LAYOUTS["dstny_rest"],
    )
    (dataset,) = found.outputs
    assert (dataset.namespace, dataset.name) == ("file", f"{tmp_path}/conversations")
    statistics = dataset.outputFacets["outputStatistics"]
    assert (statistics.rowCount, statistics.size, statistics.fileCount) == (5, 150, 2)
    assert [field.name for field in dataset.facets["schema"].fields][:2] == ["conversation_id", "occurred_at"]
    assert [(one.namespace, one.name) for one in found.inputs] == [
        ("https://api.example.com/api/v1/rest", "conversations")
    ]


def test_a_task_that_landed_nothing_has_none():
    task = DstnyToObjectStorageOperator(task_id="land", path="file:///lake")
    assert task.get_openlineage_facets_on_complete(None) is None
