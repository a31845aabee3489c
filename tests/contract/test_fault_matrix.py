"""Each kind of fault, met by each kind of operation: what stands in FAULTS.md comes of it, and nothing else."""

from __future__ import annotations

import pytest

from tests.contract import faults
from tests.contract.faults import FAULTS, FAULTS_MD, OPERATIONS, World


@pytest.fixture(scope="module")
def world():
    with World() as running:
        yield running


@pytest.fixture(scope="module")
def written():
    return faults.written()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_comes_of_a_fault_is_written(world, written, fault, operation):
    assert faults.cell(world, fault, operation) == written[fault, operation]


@pytest.mark.parametrize("title", faults.STORE_FAULTS)
def test_what_comes_of_a_store_that_fails_is_written(written, title):
    assert faults.store_cell(title) == written[title, faults.STORE]


def test_the_page_is_made_of_what_is_tested(written):
    again = "python -m tests.contract.faults"
    assert FAULTS_MD.read_text("utf-8") == faults.render(written), f"FAULTS.md is outdated: {again} writes it anew"


def test_every_outcome_is_explained(written):
    assert [told for cells in written.values() for told in cells if not faults.is_explained(told)] == []
