from __future__ import annotations

import pytest

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.storage import (
    PartialFile,
    count_rows,
    read_jsonl,
    read_row,
    read_rows,
    storage_path,
    write_jsonl,
)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "below" / "rows.jsonl"
    assert write_jsonl(str(path), [{"a": 1}, {"a": "å"}]) == 2

    def broken():
        yield {"a": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(str(path), broken())
    assert read_jsonl(str(path)) == [{"a": 1}, {"a": "å"}]
    assert read_jsonl(str(tmp_path / "none.jsonl")) == []


def test_half_a_surrogate_pair_loses_nothing(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(str(path), [{"text": "cut \ud83d"}, {"text": "åäö"}])
    assert read_jsonl(str(path)) == [{"text": "cut \ud83d"}, {"text": "åäö"}]
    assert "åäö" in path.read_text("utf-8")


def test_rows_are_counted_as_they_are_read(tmp_path):
    csv = tmp_path / "calls.csv"
    csv.write_text('\ufeffid,title\n1,"two\nlines"\n2, \n', "utf-8")
    assert count_rows(str(csv)) == 2
    assert read_row(f"{csv}#1") == {"id": "1", "title": "two\nlines"}
    assert read_row(f"{csv}#2") == {"id": "2"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"id\n1,+46701740605\n", "more cells"),
        ("a.csv", "id\nåäö+46701740605\n".encode("latin-1"), "UTF-8"),
        ("a.csv", b"id\n" + b"x" * 200_000, "cannot be read"),
        ("a.csv", b"id,+46701740605,id\n", "columns of the same name: id"),
        ("a.csv", b"id;title\n+46701740605\n", "by commas"),
        ("a.csv", b"id\n\0+46701740605\n", "NUL"),
        ("a.jsonl", b'{"a": {"b": "\\u0000+46701740605"}}\n', "NUL"),
        ("a.jsonl", b"\n\n{+46701740605\n", "JSON Lines at line 3"),
        ("a.jsonl", b"[" * 100_000, "JSON Lines"),
        ("a.jsonl", b"1" * 5000, "JSON Lines"),
        ("a.jsonl", b"[1]\n", "not an object"),
        ("a.csv", b"id\n", "no row 1"),
    ],
)
def test_a_bad_file_is_named_and_nothing_of_it_is_shown(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DstnyValidationError, match=reason) as caught:
        read_row(f"{path}#1")
    assert "46701740605" not in f"{caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r}"


def test_the_case_of_a_name_and_space_in_a_header_do_not_matter(tmp_path):
    path = tmp_path / "CALLS.Csv"
    path.write_text("id , title,,\n1,a,,\n")
    assert read_row(f"{path}#1") == {"id": "1", "title": "a"}
    assert read_rows(str(path)) == [{"id": "1", "title": "a"}]
    (tmp_path / "a.JSONL").write_text('{"id": 1}\n')
    assert read_row(f"{tmp_path}/a.JSONL#1") == {"id": 1}


def test_keys_of_yaml_may_come_of_an_anchor(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("- &a {id: 1, b: 2}\n- {<<: *a, b: 3}\n")
    assert read_rows(str(path)) == [{"id": 1, "b": 2}, {"id": 1, "b": 3}]


@pytest.mark.parametrize("reference", ["calls.csv", "calls.csv#0", "calls.txt#1", "x.csv#" + "9" * 30, "#1", ""])
def test_what_is_no_reference_is_refused_without_being_shown(reference):
    with pytest.raises(DstnyValidationError, match="like s3://bucket/calls"):
        read_row(reference)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, reason in (("folder.csv", "is not a file"), ("none.csv", "does not exist")):
        with pytest.raises(DstnyValidationError, match=reason):
            count_rows(str(tmp_path / name))


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    folder = storage_path(f"file://{tmp_path}")
    with PartialFile(folder, "x") as one, PartialFile(folder, "x") as other:
        one.write(b"one")
        other.write(b"another")
        one.keep_as("x.txt")
        assert (tmp_path / "x.txt").read_bytes() == b"one"
        other.write(b"!")
        other.keep_as("x.txt")
    assert (tmp_path / "x.txt").read_bytes() == b"another!"
    assert len(list(tmp_path.iterdir())) == 1
