"""Recordings from a host on a real port into files: whole, resumed, and never with the API's token."""

from __future__ import annotations

import itertools
import json
import logging
import os
from contextlib import contextmanager

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_dstny.api.client import Opened
from airflow_provider_dstny.api.downloads import Download
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import (
    DstnyApiError,
    DstnyConnectionError,
    DstnyError,
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

    @pytest.mark.parametrize(
        "answers",
        [
            # Whole size told, cut, and then never resumable.
            [(200, {"content-length": "5000"}, b"x" * 1000), (416, {}, b"")],
            # No validator: it begins anew each time, and is cut each time.
            [(200, {"content-length": "5000"}, b"x" * 1000)],
            # More than was told.
            [(200, {"content-length": "10"}, b"x" * 1000)],
            # A part that nobody asked for, and another than was asked for.
            [(206, {"content-range": "bytes 50-99/100"}, b"x" * 50)],
            [(200, {"content-length": "100", "etag": '"e"'}, b"x" * 9), (206, {"content-range": "bytes 0-9/100"}, b"")],
            [(206, {"content-range": f"bytes 0-9/{'9' * 5000}"}, b"x")],
        ],
    )
    def test_a_host_that_makes_no_sense_is_given_up(self, mocker, slept, answers):
        turns = itertools.cycle(answers)
        requests = []

        @contextmanager
        def open_url(url, headers):
            requests.append(headers)
            status, told, body = next(turns)
            yield Opened(status, told, iter([body] if body else []))

        download = Download(mocker.Mock(open_url=open_url), "The recording", lambda: "http://h/x", Memory())
        with pytest.raises(DstnyError):
            download.run()
        assert len(requests) <= 14

    @pytest.mark.parametrize(
        ("first", "then"),
        [
            # The size is only told when it goes on.
            (({"etag": '"e"'}, 1000), (206, {"content-range": "bytes 1000-4999/5000"}, 4000)),
            # A validator that cannot be sent back.
            (({"etag": '"\u00e9"', "content-length": "5000"}, 1000), (200, {"content-length": "5000"}, 5000)),
            (({"etag": 'W/"weak"', "content-length": "5000"}, 1000), (200, {"content-length": "5000"}, 5000)),
        ],
    )
    def test_a_host_that_can_or_cannot_resume_is_understood(self, mocker, slept, first, then):
        data = bytes(n % 251 for n in range(5000))

        def broken(length):
            yield data[:length]
            raise DstnyConnectionError("cut")

        answers = iter(
            [
                Opened(200, first[0], broken(first[1])),
                Opened(then[0], then[1], iter([data[-then[2] :]])),
            ]
        )

        @contextmanager
        def open_url(url, headers):
            yield next(answers)

        target = Memory()
        Download(mocker.Mock(open_url=open_url), "The recording", lambda: "http://h/x", target).run()
        assert target.bytes == data

    @pytest.mark.parametrize("kind", ["application/json", "Text/HTML; charset=utf-8", "text/plain", "application/xml"])
    def test_a_message_is_no_recording(self, mocker, kind):
        @contextmanager
        def open_url(url, headers):
            yield Opened(200, {"content-type": kind}, iter([b"{}"]))

        with pytest.raises(DstnyResponseError, match="not with a recording"):
            Download(mocker.Mock(open_url=open_url), "The recording", lambda: "http://h/x", Memory()).run()

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "", "//host/x", "http://"])
    def test_only_http_is_opened(self, account, url):
        with pytest.raises(DstnyValidationError):
            fetch(account, BIG, Memory(), [url])

    def test_what_breaks_leaves_no_trace_of_the_library(self, account):
        account.books.inject(Fault("cut", "recording", after_bytes=10))
        account.books.inject(Fault("reset", "recording", times=99))
        with pytest.raises(DstnyConnectionError) as caught:
            fetch(account, BIG, Memory())
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    def test_what_the_reader_makes_wrong_is_not_the_connections(self, account):
        with (
            DstnyRestClient(account.url, account.rest_token) as rest,
            pytest.raises(UnicodeDecodeError),
            rest.open_url(f"{account.url}/recordings/a.wav", {}) as opened,
        ):
            b"\xff".decode()
        assert opened.status == 200

    def test_a_signature_is_not_logged_by_the_http_library(self, account, caplog):
        for name in ("httpx", "httpcore.connection", "httpcore.http11"):
            caplog.set_level(logging.DEBUG, logger=name)
        fetch(account, BIG, Memory())
        with DstnyRestClient(account.url, account.rest_token) as rest:
            rest.list_conversations(user_id="+46701234567")
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("http")]
        assert any("/recordings/" in line for line in lines)
        assert not [record.name for record in caplog.records if record.name.startswith("httpcore.http11")]
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

    def test_a_fresh_url_that_cannot_be_had_at_once_is_asked_for_again(self, account, tmp_path):
        one = account.rest.add(has_recording=True, recording=BIG)
        account.books.inject(Fault("cut", "recording", after_bytes=1000))
        account.books.inject(Fault("status", "recording", status=403))
        # The first question is answered; of the second, all five attempts fail.
        account.books.inject(Fault("slow", "get_recording_url", seconds=0))
        account.books.inject(Fault("status", "get_recording_url", status=503, times=5))
        assert self.run(one.id, tmp_path)["downloaded"] == 1
        assert (tmp_path / f"{one.id}.bin").stat().st_size == SIZE

    def test_a_cut_that_is_not_mended_leaves_nothing(self, account, tmp_path):
        one = account.rest.add(has_recording=True, recording=BIG)
        account.books.inject(Fault("cut", "recording", after_bytes=1000))
        account.books.inject(Fault("reset", "recording", times=99))
        with pytest.raises(AirflowException):
            self.run(one.id, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_what_killed_tasks_left_is_removed_when_it_is_old_and_not_sooner(self, account, tmp_path):
        one = account.rest.add(has_recording=True, recording=BIG)
        old, young = (tmp_path / f".{one.id}.{n * 12}.partial" for n in "ab")
        for file in (old, young):
            file.write_bytes(b"half")
        os.utime(old, (0, 0))
        assert self.run(one.id, tmp_path)["skipped"] == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, f"{one.id}.bin"]

    def test_a_host_that_fails_one_recording_does_not_keep_the_others(self, account, tmp_path):
        first, second = (account.rest.add(has_recording=True, recording=f"{n}.wav") for n in range(2))
        account.books.inject(Fault("reset", "recording", times=6))
        with pytest.raises(AirflowException, match="1 of 2 recordings failed"):
            self.run([first.id, second.id], tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [f"{second.id}.wav"]

    @pytest.mark.parametrize("name", ["ID.json", "ID.txt", ".ID.wav"])
    def test_another_file_of_the_same_name_is_no_recording(self, account, tmp_path, name):
        one = account.rest.add(has_recording=True, recording="a.wav")
        (tmp_path / name.replace("ID", one.id)).write_text("{}")
        assert self.run(one.id, tmp_path)["downloaded"] == 1

    @pytest.mark.parametrize("ids", ["['a', 'b']", "None", ["a", "['b']"], b"ab", {"a": 1}, [None]])
    def test_ids_that_were_rendered_to_text_are_refused(self, account, tmp_path, ids):
        with pytest.raises(AirflowFailException, match="conversation_ids"):
            self.run(ids, tmp_path)
        assert account.books.entries == []

    @pytest.mark.parametrize("path", [None, "", "nowhere://x/y"])
    def test_a_path_that_cannot_be_used_is_refused_before_anything_is_asked(self, account, path):
        task = DstnyRecordingToObjectStorageOperator(task_id="r", conversation_ids="a", path=path)
        with pytest.raises(AirflowFailException, match="path"):
            task.execute({})
        assert account.books.entries == []

    def test_a_file_in_place_of_the_folder_is_refused(self, account, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(AirflowFailException, match="must be a folder"):
            self.run("a", tmp_path / "file")

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
