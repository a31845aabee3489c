from __future__ import annotations

import logging

import pytest

from airflow_provider_dstny import progress as progress_module
from airflow_provider_dstny.progress import Progress


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, logger=progress_module.__name__)
    return lambda: [record.getMessage() for record in caplog.records]


def test_now_and_then_and_in_the_end_it_says_how_far_it_is(told):
    clock = Clock()
    with Progress("Reading", 1000, "conversations", clock=clock) as progress:
        for _ in range(30):
            clock.now += 1
            progress.add(2)
    assert told() == [
        "::group::Reading 1,000 conversations",
        "20 of 1,000 conversations, 120 a minute, 8 min left",
        "40 of 1,000 conversations, 120 a minute, 8 min left",
        "60 of 1,000 conversations, 120 a minute, 8 min left",
        "60 of 1,000 conversations in 30 s",
        "::endgroup::",
    ]


def test_a_quick_one_says_two_things_and_an_error_ends_the_group(told):
    with pytest.raises(KeyError), Progress("Sending", 5, "calls", clock=Clock()):
        raise KeyError
    assert told() == ["::group::Sending 5 calls", "0 of 5 calls in 0 s", "::endgroup::"]


def test_where_nobody_knows_the_total_there_is_no_time_left(told):
    clock = Clock()
    with Progress("Listing", None, "conversations", clock=clock) as progress:
        clock.now += 10
        progress.add(2500)
    assert told()[:2] == ["::group::Listing conversations", "2,500 conversations, 15000 a minute"]


@pytest.mark.parametrize(
    ("seconds", "left"), [(30, "30 s"), (90, "2 min"), (3600, "60 min"), (7200, "2 h 0 min"), (99999, "27 h 47 min")]
)
def test_times_are_told_as_people_say_them(told, seconds, left):
    clock = Clock()
    with Progress("x", 11, "y", clock=clock) as progress:
        clock.now += max(10, seconds / 10)
        progress.add(11 - 11 * seconds / (seconds + max(10, seconds / 10)))
    assert told()[1].endswith(f"{left} left")
