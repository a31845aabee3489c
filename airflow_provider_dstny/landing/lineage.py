"""What an export tells OpenLineage: from which API, into which datasets, how much. Needs the openlineage provider."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.export.layout import Layout
from airflow_provider_dstny.landing.export import Outcome
from airflow_provider_dstny.storage import is_local, storage_path

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_dstny.export.files import DataFile


def lineage_of(outcome: Outcome, *, path: Any, api_url: str, layout: Layout) -> Any:
    """Return the datasets of a run as an ``OperatorLineage``: one for each table, with its columns and counts.

    :param path: the folder of the lake.
    :param api_url: the base address of the API.
    """
    from airflow.providers.common.compat.openlineage.facet import (
        Dataset,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
        SchemaDatasetFacet,
        SchemaDatasetFacetFields,
    )
    from airflow.providers.openlineage.extractors import OperatorLineage

    files: dict[str, list[DataFile]] = defaultdict(list)
    for file in outcome.manifest.files if outcome.manifest else ():
        if file.table in layout.tables:
            files[file.table].append(file)
    outputs = []
    for name, written in sorted(files.items()):
        namespace, folder = dataset_name(storage_path(path) / name)
        columns = [SchemaDatasetFacetFields(one.name, one.type.value) for one in layout.tables[name].columns]
        statistics = OutputStatisticsOutputDatasetFacet(
            rowCount=sum(file.rows for file in written),
            size=sum(file.bytes for file in written),
            fileCount=len(written),
        )
        outputs.append(
            OutputDataset(
                namespace=namespace,
                name=folder,
                facets={"schema": SchemaDatasetFacet(fields=columns)},
                outputFacets={"outputStatistics": statistics},
            )
        )
    return OperatorLineage(inputs=[Dataset(namespace=api_url, name="conversations")], outputs=outputs)


def dataset_name(path: str | ObjectStoragePath) -> tuple[str, str]:
    """Return namespace and name of a folder as OpenLineage has them; a connection in the path is not part of them."""
    target = storage_path(path)
    if is_local(target):
        return "file", target.path
    bucket, _, key = target.path.partition("/")
    return f"{target.protocol}://{bucket}", key
