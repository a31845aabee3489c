"""Files in object storage, against a server of S3 and in memory."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest

from airflow_provider_dstny import storage
from airflow_provider_dstny.storage import PartialFile, read_jsonl, storage_path, write_jsonl
from tests.s3 import S3Lake, _memory_lake, _s3_lake, forget_stores  # noqa: F401 - fixtures


@pytest.fixture(params=["s3", "s3 without connection", "memory"])
def lake(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return str(request.getfixturevalue("memory_lake"))
    bucket: S3Lake = request.getfixturevalue("s3_lake")
    return bucket.url if request.param == "s3" else bucket.plain_url


def files(lake: str) -> list[str]:
    """Every file of a lake by its path from there, hidden ones too."""
    folder = storage_path(lake)
    root = folder.path.rstrip("/") + "/"
    folder.fs.invalidate_cache()
    return sorted(path.removeprefix(root) for path in folder.fs.find(folder.path))


def test_a_file_appears_whole_or_not_at_all(lake):
    path = f"{lake}/calls/day=2026-03-02/rows.jsonl"
    assert read_jsonl(path) == []
    assert write_jsonl(path, [{"a": 1}, {"a": "å \ud83d"}]) == 2

    def broken():
        yield {"a": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, broken())
    assert read_jsonl(path) == [{"a": 1}, {"a": "å \ud83d"}]
    assert files(lake) == ["calls/day=2026-03-02/rows.jsonl"]
    assert write_jsonl(path, [{"a": 3}]) == 1
    assert read_jsonl(path) == [{"a": 3}]


def test_two_writers_of_one_file_do_not_mix(lake):
    folder = storage_path(lake)
    with PartialFile(folder, "x") as one, PartialFile(folder, "x") as other:
        one.write(b"one")
        other.write(b"another")
        assert folder.fs.cat_file(one.keep_as("x.txt").path) == b"one"
        other.write(b"!")
        assert folder.fs.cat_file(other.keep_as("x.txt").path) == b"another!"
    assert files(lake) == ["x.txt"]


def test_what_was_forgotten_is_not_kept(lake):
    folder = storage_path(lake)
    with PartialFile(folder, "x") as file:
        file.write(b"1" * 6_000_000)
        file.restart()
        file.write(b"2")
        kept = file.keep_as("x")
    assert folder.fs.cat_file(kept.path) == b"2"
    assert files(lake) == ["x"]


def test_more_than_one_piece_of_an_upload_is_kept_whole(s3_lake):
    # s3fs sends pieces of 50 MiB.
    with PartialFile(storage_path(s3_lake.url), "x") as file:
        for number in range(11):
            file.write(bytes([number]) * 10_000_000)
        file.keep_as("x")
    content = s3_lake.get("x")
    assert len(content) == 110_000_000
    assert set(content[-10_000_000:]) == {10}
    assert s3_lake.paths() == ["x"]


def test_only_old_leftovers_are_removed(s3_lake, monkeypatch):
    s3_lake.put(".x.0123456789ab.partial", b"")
    s3_lake.put("x", b"")
    storage.storage_folder(s3_lake.url)
    assert len(s3_lake.paths()) == 2
    monkeypatch.setattr(storage, "_LEFTOVER_AGE", timedelta(minutes=-1))
    storage.storage_folder(s3_lake.url)
    assert s3_lake.paths() == ["x"]


def test_another_process_writes_to_the_same_lake(s3_lake):
    script = f"from airflow_provider_dstny.storage import write_jsonl; write_jsonl({s3_lake.url + '/x.jsonl'!r}, [[1]])"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert read_jsonl(f"{s3_lake.url}/x.jsonl") == [[1]]


def test_what_another_process_has_written_since_is_read(s3_lake):
    write_jsonl(f"{s3_lake.url}/mine.jsonl", [[1]])
    s3_lake.put("theirs.jsonl", b"[1]\n")
    storage.storage_folder(s3_lake.url)
    s3_lake.put("theirs.jsonl", b"[1]\n[2]\n")
    s3_lake.put("new.jsonl", b"[3]\n")
    assert read_jsonl(f"{s3_lake.url}/new.jsonl") == [[3]]
    assert read_jsonl(f"{s3_lake.url}/theirs.jsonl") == [[1], [2]]


def test_what_was_written_without_a_connection_is_found(s3_lake):
    write_jsonl(f"{s3_lake.plain_url}/one.jsonl", [[1]])
    write_jsonl(f"{s3_lake.plain_url}/two.jsonl", [[2]])
    assert read_jsonl(f"{s3_lake.plain_url}/two.jsonl") == [[2]]


@pytest.mark.parametrize("name", ["a[1].txt", "a*.txt", "[x]/a.txt"])
def test_a_name_is_no_pattern(s3_lake, name):
    write_jsonl(f"{s3_lake.url}/{name}", [[1]])
    assert s3_lake.paths() == [name]


def test_a_file_beside_a_folder_of_its_name_has_its_name(s3_lake):
    s3_lake.put("x/y", b"")
    with PartialFile(storage_path(s3_lake.url), "x") as file:
        file.keep_as("x")
    assert s3_lake.paths() == ["x", "x/y"]


def test_what_has_no_time_is_not_old(memory_lake):
    folder = storage_path(memory_lake)
    folder.fs.pipe_file(f"{folder.path}/.x.0123456789ab.partial", b"")
    storage.remove_leftovers(folder)
    assert files(memory_lake) == [".x.0123456789ab.partial"]
