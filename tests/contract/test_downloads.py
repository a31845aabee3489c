"""Recordings from a host on a real port into files: whole, resumed, and never with the API's token."""

from __future__ import annotations

import json
import logging

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_dstny.api.downloads import Download
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import (
    DstnyApiError,
    DstnyConnectionError,
    DstnyResponseError,
    DstnyTimeoutError,
    DstnyValidationError,
)
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.simulator.recordings import recording
from airflow_provider_dstny.transfers.object_storage import DstnyRecordingToObjectStorageOperator

SIZE = 5_000_000
BIG = f"big-{SIZE}.bin"


def content(name):
    held = recording(name)
    return b"".join(held.chunks(0, held.size - 1))


class Memory:
    def __init__(self):
        self.bytes = b""
        self.restarts = 0

    def write(self, piece):
        self.bytes += piece

    def restart(self):
        self.bytes = b""
        self.restarts += 1


@pytest.fixture
def slept(mocker):
    slept: list[float] = []
    mocker.patch("airflow_provider_dstny.api.downloads.time.sleep", slept.append)
    return slept


@pytest.fixture
def account(monkeypatch, no_sleep, slept):
    with Simulator(requests_per_minute=None) as simulator:
        connection = {"conn_type": "dstny_rest", "host": simulator.url, "password": simulator.rest_token}
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_REST_DEFAULT", json.dumps(connection))
        yield simulator


def fetch(simulator, name, target, urls=None):
    with DstnyRestClient(simulator.url, simulator.rest_token, timeout=1) as rest:
        urls = iter(urls or [f"{simulator.url}/recordings/{name}?signature=s3cr3t"] * 99)
        download = Download(rest, "The recording", lambda: next(urls), target)
        download.run()
        return download


class TestDownload:
    def test_a_file_comes_whole_and_without_the_token(self, account):
        target = Memory()
        download = fetch(account, BIG, target)
        assert target.bytes == content(BIG)
        assert (download.size, download.suffix()) == (SIZE, ".bin")
        assert [(one.name, one.range, one.authorized) for one in account.books.downloads] == [(BIG, None, False)]

    @pytest.mark.parametrize("after", [1, 1_500_000, SIZE - 1])
    def test_one_that_is_cut_is_resumed_where_it_ended(self, account, after, slept):
        account.books.inject(Fault("cut", "recording", after_bytes=after, times=2))
        target = Memory()
        fetch(account, BIG, target)
        assert target.bytes == content(BIG)
        assert target.restarts == 0
        ranges = [one.range for one in account.books.downloads]
        assert ranges[:2] == [None, f"bytes={after}-"]
        assert all(one.status == 206 for one in account.books.downloads[1:])
        assert len(slept) == len(ranges) - 1

    def test_one_that_cannot_be_resumed_begins_anew(self, account, mocker):
        mocker.patch.object(Download, "_range", return_value={})
        account.books.inject(Fault("cut", "recording", after_bytes=2_000_000))
        target = Memory()
        fetch(account, BIG, target)
        assert target.bytes == content(BIG)
        assert target.restarts == 1

    def test_one_that_has_changed_meanwhile_begins_anew(self, account):
        account.books.inject(Fault("cut", "recording", after_bytes=2_000_000))
        account.books.inject(Fault("status", "recording", status=403))
        other = f"big-{SIZE + 7}.bin"
        target = Memory()
        fetch(account, BIG, target, [f"{account.url}/recordings/{name}" for name in (BIG, other)])
        assert target.bytes == content(other)
        assert target.restarts == 1

    def test_a_url_that_ran_out_half_way_is_asked_for_anew_and_goes_on(self, account):
        account.books.inject(Fault("cut", "recording", after_bytes=2_000_000))
        account.books.inject(Fault("status", "recording", status=403))
        target = Memory()
        fetch(account, BIG, target, [f"{account.url}/recordings/{BIG}?n={n}" for n in range(2)])
        assert target.bytes == content(BIG)
        assert target.restarts == 0

    def test_what_never_gets_further_ends(self, account, slept):
        account.books.inject(Fault("reset", "recording", times=99))
        with pytest.raises(DstnyConnectionError):
            fetch(account, BIG, Memory())
        assert len(account.books.downloads) == 6

    def test_what_gets_further_each_time_goes_on(self, account):
        account.books.inject(Fault("cut", "recording", after_bytes=400_000, times=12))
        target = Memory()
        fetch(account, BIG, target)
        assert target.bytes == content(BIG)
        assert len(account.books.downloads) == 13

    @pytest.mark.parametrize(
        ("fault", "kind", "attempts"),
        [
            (Fault("status", "recording", status=403, times=99), DstnyApiError, 1),
            (Fault("status", "recording", status=404, times=99), DstnyApiError, 1),
            (Fault("status", "recording", status=503, times=99), DstnyApiError, 6),
            (Fault("html", "recording", status=200, times=99), DstnyResponseError, 1),
            (Fault("slow", "recording", seconds=3, times=99), DstnyTimeoutError, 6),
        ],
        ids=["403", "404", "503", "page", "slow"],
    )
    def test_what_the_host_refuses_is_said_without_its_url(self, account, fault, kind, attempts):
        account.books.inject(Fault(**vars(fault)))
        with pytest.raises(kind) as caught:
            fetch(account, BIG, Memory())
        assert "signature" not in f"{caught.value} {caught.value!r}"
        assert "s3cr3t" not in f"{caught.value.__cause__} {caught.value.__context__}"
        assert len(account.books.downloads) == attempts

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "", "//host/x", "http://"])
    def test_only_http_is_opened(self, account, url):
        with pytest.raises(DstnyValidationError):
            fetch(account, BIG, Memory(), [url])

    def test_a_signature_is_not_logged_by_the_http_library(self, account, caplog):
        caplog.set_level(logging.INFO, logger="httpx")
        fetch(account, BIG, Memory())
        with DstnyRestClient(account.url, account.rest_token) as rest:
            rest.list_conversations(user_id="+46701234567")
        lines = [record.getMessage() for record in caplog.records if record.name == "httpx"]
        assert any("/recordings/" in line for line in lines)
        assert not [line for line in lines if "s3cr3t" in line or "46701234567" in line]

    @pytest.mark.parametrize(
        ("content_type", "url", "suffix"),
        [
            ("audio/mpeg", "http://h/x.wav", ".mp3"),
            ("audio/x-wav; charset=binary", "http://h/x", ".wav"),
            ("video/mp4", "http://h/x", ".mp4"),
            ("application/octet-stream", "http://h/a/x.OGG?s=1", ".ogg"),
            ("", "http://h/x", ".bin"),
            ("", "http://h/x.averylongending", ".bin"),
            ("application/x-unknown", "http://h/x.mp3", ".mp3"),
        ],
    )
    def test_the_name_ends_as_the_content_is(self, content_type, url, suffix):
        download = Download(None, "x", str, Memory())
        download.content_type, download._url = content_type, url
        assert download.suffix() == suffix


class TestOperator:
    def run(self, ids, folder, **options):
        task = DstnyRecordingToObjectStorageOperator(
            task_id="recordings", conversation_ids=ids, path=f"file://{folder}", **options
        )
        return task.execute({})

    def test_recordings_land_with_their_content_type_and_no_half_file(self, account, tmp_path):
        with_one, big, without = (
            account.rest.add(has_recording=True, recording="a.mp3"),
            account.rest.add(has_recording=True, recording=BIG),
            account.rest.add(has_recording=False),
        )
        account.books.inject(Fault("cut", "recording", after_bytes=1000))
        xcom = self.run([with_one.id, big.id, without.id], tmp_path)
        assert (tmp_path / f"{with_one.id}.mp3").read_bytes() == content("a.mp3")
        assert (tmp_path / f"{big.id}.bin").read_bytes() == content(BIG)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{with_one.id}.mp3", f"{big.id}.bin"])
        assert xcom["downloaded"] == 2
        assert xcom["without_recording"] == [without.id]
        assert xcom["files"][big.id].endswith(f"{big.id}.bin")
        assert xcom["bytes"] == len(content("a.mp3")) + SIZE
        assert not any(download.authorized for download in account.books.downloads)
        assert account.books.violations == []

    def test_what_is_there_is_left_out_unless_asked(self, account, tmp_path):
        one = account.rest.add(has_recording=True, recording="a.wav")
        self.run(one.id, tmp_path)
        requests = len(account.books.entries)
        again = self.run(one.id, tmp_path)
        assert (again["downloaded"], again["skipped"]) == (0, 1)
        assert again["files"].keys() == {one.id}
        assert len(account.books.entries) == requests, "no request is spent"
        assert self.run(one.id, tmp_path, overwrite=True)["downloaded"] == 1

    def test_one_that_fails_does_not_keep_the_others_and_a_retry_fetches_the_rest(self, account, tmp_path):
        first, second = (account.rest.add(has_recording=True, recording=f"{n}.wav") for n in range(2))
        account.books.inject(Fault("status", "recording", status=404))
        with pytest.raises(AirflowException, match=first.id) as caught:
            self.run([first.id, second.id], tmp_path)
        assert not isinstance(caught.value, AirflowFailException)
        assert [path.name for path in tmp_path.iterdir()] == [f"{second.id}.wav"]
        assert self.run([first.id, second.id], tmp_path)["downloaded"] == 1

    def test_a_cut_that_is_not_mended_leaves_nothing(self, account, tmp_path):
        one = account.rest.add(has_recording=True, recording=BIG)
        account.books.inject(Fault("cut", "recording", after_bytes=1000))
        account.books.inject(Fault("reset", "recording", times=99))
        with pytest.raises(AirflowException):
            self.run(one.id, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_half_file_of_a_killed_task_is_overwritten(self, account, tmp_path):
        one = account.rest.add(has_recording=True, recording=BIG)
        (tmp_path / f".{one.id}.partial").write_bytes(b"half")
        assert self.run(one.id, tmp_path)["skipped"] == 0
        assert [path.name for path in tmp_path.iterdir()] == [f"{one.id}.bin"]

    def test_none_at_all_can_be_made_an_error(self, account, tmp_path):
        one = account.rest.add(has_recording=False)
        assert self.run(one.id, tmp_path)["without_recording"] == [one.id]
        with pytest.raises(AirflowFailException, match=one.id):
            self.run(one.id, tmp_path, fail_if_missing=True)

    def test_a_used_up_quota_ends_the_round(self, account, tmp_path):
        ids = [account.rest.add(has_recording=True, recording="a.wav").id for _ in range(3)]
        fault = Fault("status", "get_recording_url", status=429, message="Daily quota exceeded", times=9)
        account.books.inject(fault)
        with pytest.raises(AirflowException, match="3 of 3 recordings"):
            self.run(ids, tmp_path)
        assert account.books.count("get_recording_url") == 1

    def test_a_recording_without_a_url_is_said(self, account, tmp_path, mocker):
        mocker.patch.object(DstnyRestClient, "_send", return_value={"has_recording": True})
        with pytest.raises(AirflowException, match="but not where"):
            self.run("a", tmp_path)

    def test_ids_cannot_leave_the_folder(self, account, tmp_path):
        with pytest.raises(AirflowException):
            self.run("../x", tmp_path / "in")
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_a_connection_of_another_api_is_refused(self, account, tmp_path, monkeypatch):
        connection = {"conn_type": "dstny", "host": account.url, "password": account.token}
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_REST_DEFAULT", json.dumps(connection))
        with pytest.raises(AirflowFailException, match="dstny_rest"):
            self.run("a", tmp_path)
