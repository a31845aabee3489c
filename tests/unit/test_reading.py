from __future__ import annotations

import json
import math

import pytest

from airflow_provider_dstny.api.reading import read_json


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.5, null, true, "\\u00e4"], "a": {}}',
        '"cut \\ud83d"',
        "[Infinity, -Infinity, 1e400]",
        "12345678901234567890123456789",
        ' \n{"a": 1}\n',
        "[" * 150 + "]" * 150,
    ],
)
def test_json_is_read_as_the_standard_library_does(text):
    assert read_json(text) == json.loads(text)
    assert read_json(text.encode()) == json.loads(text)


def test_what_only_the_standard_library_reads_is_read():
    assert math.isnan(read_json("[NaN]")[0])
    assert read_json('{"ä": 1}'.encode("utf-16")) == {"ä": 1}


@pytest.mark.parametrize("text", ["", "{", b"\xff\xfe\x00", b'"\xff"', "{} {}", "nul"])
def test_what_is_no_json_is_an_error_of_value(text):
    with pytest.raises(ValueError):  # noqa: PT011 - each has another message
        read_json(text)


def test_what_is_nested_too_deep_is_an_error():
    with pytest.raises(RecursionError):
        read_json("[" * 100_000 + "]" * 100_000)
