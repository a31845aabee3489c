"""The operator of the lake export: what it takes, what it tells Airflow, and when it ends, fails or defers."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG, Asset, AssetAlias, ObjectStoragePath
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from airflow_provider_dstny.api import throttle
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.transfers.object_storage import DstnyToObjectStorageOperator
from tests.unit.test_import_cost import imported_by

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # before Airflow 3.2
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

READ = "get_conversation"
SALT = "0123456789abcdef-salt"
MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
COUNTS = {
    "about_to_be_lost",
    "complete",
    "failed",
    "gone",
    "left",
    "listed",
    "no_transcript",
    "pending",
    "read",
}
LAKE = Asset("lake")


class Clock:
    """Time as the simulator and the export see it."""

    def __init__(self, now):
        self.now = now.timestamp()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    # The last noon by the real clock, which bounds what is listed: away from midnight, where the quota starts anew.
    day = (datetime.now(UTC) - timedelta(hours=12)).date()
    return Clock(datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=12))


@pytest.fixture
def connect(monkeypatch):
    def connect(simulator, **extra):
        connection = {
            "conn_type": "dstny_rest",
            "host": simulator.url,
            "password": simulator.rest_token,
            "extra": {"requests_per_minute": 100_000, **extra},
        }
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_REST_DEFAULT", json.dumps(connection))

    return connect


@pytest.fixture
def account(clock, connect, no_sleep):
    """A simulator with twelve complete conversations behind the connection ``dstny_rest_default``."""
    with Simulator(samples=12, fresh=0, requests_per_minute=None, clock=clock) as running:
        connect(running)
        yield running


@pytest.fixture
def lake(tmp_path):
    return tmp_path / "lake"


def moment_of(account):
    return datetime.fromtimestamp(account.rest._clock(), UTC)


def context_of(account, start=None, end=None, **others):
    run = SimpleNamespace(data_interval_start=start, data_interval_end=end, run_after=moment_of(account))
    return {"dag_run": run, "params": {}, "outlet_events": {}, **others}


def operator(lake, **kwargs):
    return DstnyToObjectStorageOperator(task_id="export", path=str(lake), **kwargs)


def export(account, lake, context=None, **kwargs):
    return operator(lake, **kwargs).execute(context_of(account) if context is None else context)


def files(lake):
    return sorted(str(file.relative_to(lake)) for file in lake.rglob("*") if file.is_file())


def rows(lake, table):
    return [json.loads(line) for file in sorted(lake.glob(f"{table}/*/*.jsonl")) for line in file.open()]


def read_ids(account):
    return [entry.path.rpartition("/")[2] for entry in account.books.entries if entry.operation == READ]


class TestArguments:
    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ({"format": "csv"}, "format must be 'jsonl' or 'parquet', not 'csv'"),
            ({"on_quota": "wait"}, "on_quota must be 'carry_over' or 'defer', not 'wait'"),
            ({"lookback": 2}, "lookback must be a timedelta"),
            ({"lookback": timedelta(days=-1)}, "lookback must be a timedelta that is not negative"),
            ({"sweep_every": None}, "sweep_every must be a timedelta"),
            ({"give_up_after": "7 days"}, "give_up_after must be a timedelta"),
        ],
    )
    def test_what_can_be_seen_at_parse_time_is_refused_there(self, lake, argument, message):
        with pytest.raises(ValueError, match=message):
            operator(lake, **argument)

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ({"concurrency": 0}, "concurrency"),
            ({"concurrency": 101}, "concurrency"),
            ({"concurrency": 2.5}, "concurrency"),
            ({"concurrency": True}, "concurrency"),
            pytest.param({"quota_reserve": -1}, "quota_reserve"),
            ({"quota_reserve": "10"}, "quota_reserve"),
            pytest.param({"max_failures": -1}, "max_failures"),
            pytest.param({"dry_run": "{{ params.dry_run }}"}, "dry_run"),
            ({"wait_for_delivery": "yes"}, "wait_for_delivery"),
            ({"tables": ["conversations", "calls", "messages"]}, "tables has calls, messages; dstny_rest has conv"),
            ({"tables": "conversations"}, "tables must be a list of names"),
            ({"redaction": {"drop": ["id"]}}, "id of a conversation"),
            ({"redaction": {"hash": ["user.email"]}}, "salt"),
            ({"redaction": {"hash": ["user.email"], "salt": "short"}}, "salt"),
            ({"redaction": {"mask": ["user.email"]}}, "redaction has no 'mask'"),
            ({"redaction": "drop_text"}, "redaction must be a mapping"),
        ],
    )
    def test_the_others_fail_the_task_for_good_before_anything_is_asked(self, account, lake, argument, message):
        with pytest.raises(AirflowFailException, match=message):
            export(account, lake, **argument)
        assert account.books.entries == []
        assert not lake.exists()

    def test_a_path_that_is_a_file_is_refused(self, account, tmp_path):
        (tmp_path / "lake").write_text("")
        with pytest.raises(AirflowFailException, match="is a file; it must be a folder"):
            export(account, tmp_path / "lake")

    def test_a_path_that_was_rendered_to_nothing_is_refused(self, account):
        with pytest.raises(AirflowFailException, match="path is empty"):
            export(account, "")

    def test_a_connection_of_another_type_is_refused(self, account, lake, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_REST_DEFAULT", json.dumps({"conn_type": "http", "host": account.url}))
        with pytest.raises(AirflowFailException, match="type"):
            export(account, lake)
        assert account.books.entries == []

    def test_parquet_without_pyarrow_says_what_to_install(self, account, lake, mocker):
        mocker.patch("airflow_provider_dstny.export.tables.import_module", side_effect=ImportError)
        with pytest.raises(AirflowFailException, match=r"pip install 'airflow-provider-dstny\[parquet\]'"):
            export(account, lake, format="parquet")

    def test_a_field_that_may_be_misspelt_is_named(self, account, lake, capsys):
        export(account, lake, redaction={"drop": ["user.emial"]})
        assert "perhaps misspelt: user.emial" in capsys.readouterr().out

    def test_a_refused_token_is_final(self, account, lake):
        account.books.inject(Fault("status", "list_conversations", status=401))
        with pytest.raises(AirflowFailException):
            export(account, lake)


def dag_of(**kwargs):
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        DstnyToObjectStorageOperator(task_id="export", **kwargs)
    return dag


def serialized(dag):
    return json.dumps(DagSerialization.to_dict(dag))


class TestTemplates:
    def test_path_and_connection_are_rendered(self):
        task = dag_of(path="s3://{{ params.bucket }}/lake", dstny_conn_id="{{ params.conn }}").get_task("export")
        task.render_template_fields({"params": {"bucket": "b", "conn": "c"}})
        assert (task.path, task.dstny_conn_id) == ("s3://b/lake", "c")

    def test_conversations_may_come_of_another_task(self, account, lake):
        wanted = list(account.rest.conversations)[:2]
        dag = dag_of(path=str(lake), conversation_ids="{{ params.wanted }}")
        dag.render_template_as_native_obj = True
        task = dag.get_task("export")
        context = context_of(account, params={"wanted": wanted})
        task.render_template_fields(context)
        assert task.execute(context)["read"] == 2
        assert sorted(read_ids(account)) == sorted(wanted)

    def test_a_task_that_gives_no_list_of_conversations_does_not_have_all_of_them_read(self, account, lake):
        dag = dag_of(path=str(lake), conversation_ids="{{ params.wanted }}")
        dag.render_template_as_native_obj = True
        task = dag.get_task("export")
        context = context_of(account, params={"wanted": None})
        task.render_template_fields(context)
        with pytest.raises(AirflowFailException, match="conversation_ids must be an id or a list of ids, not NoneType"):
            task.execute(context)
        assert account.books.entries == []

    def test_a_path_may_be_an_object(self, account, lake):
        dag = dag_of(path=ObjectStoragePath(f"file://{lake}") / "{{ params.name }}")
        assert "params.name" in serialized(dag)
        task = dag.get_task("export")
        task.render_template_fields({"params": {"name": "x"}})
        assert export(account, task.path)["manifest"].startswith(f"file://{lake}/x/")

    @pytest.mark.parametrize("salt", [SALT, "{{ params.salt }}"])
    def test_the_salt_is_rendered_and_never_shown(self, account, lake, salt, capsys):
        dag = dag_of(path=str(lake), redaction={"hash": ["user.email"], "salt": salt, "drop": ["company"]})
        task = dag.get_task("export")
        context = context_of(account, params={"salt": SALT})
        task.render_template_fields(context)
        rendered = json.dumps(_serialize_rendered_fields(task))
        xcom = task.execute(context)
        emails = {user["email"] for user in (one.user for one in account.rest.conversations.values()) if user}
        hashes = {hmac.new(SALT.encode(), one.encode(), hashlib.sha256).hexdigest() for one in emails}
        assert {row["user_email"] for row in rows(lake, "conversations")} == hashes
        assert {row["company"] for row in rows(lake, "conversations")} == {None}
        shown = serialized(dag) + rendered + repr(task) + capsys.readouterr().out + json.dumps(xcom)
        landed = "".join((lake / file).read_text() for file in files(lake))
        assert SALT not in shown + landed
        assert "redaction" not in serialized(dag) + rendered

    def test_the_salt_of_a_redaction_that_was_made_already_is_rendered_too(self, account, lake):
        redaction = Redaction(hash=["user.email"], salt="{{ params.the_salt }}")
        operator(lake, redaction=redaction).execute(context_of(account, params={"the_salt": SALT}))
        emails = {one.user["email"] for one in account.rest.conversations.values() if one.user}
        hashes = {hmac.new(SALT.encode(), one.encode(), hashlib.sha256).hexdigest() for one in emails}
        assert {row["user_email"] for row in rows(lake, "conversations")} == hashes

    def test_what_a_redaction_calls_is_not_shown_either(self, account, lake):
        def shorten(body):
            return {**body, "title": "short"}

        dag = dag_of(path=str(lake), redaction={"apply": shorten})
        assert "shorten" not in serialized(dag)
        dag.get_task("export").execute(context_of(account))
        assert {row["title"] for row in rows(lake, "conversations")} == {"short"}


class TestMapped:
    def mapped(self, **kwargs):
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
            return dag, DstnyToObjectStorageOperator.partial(task_id="export", **kwargs).expand(path=["a", "b"])

    def test_it_can_be_mapped_over_paths(self, account, lake):
        _, task = self.mapped(tables=["conversations"])
        xcom = task.unmap({"path": str(lake)}).execute(context_of(account))
        assert xcom["rows"] == {"conversations": 12}

    @pytest.mark.parametrize(
        "redaction",
        [
            {"hash": ["user.email"], "salt": "{{ var.value.salt }}"},
            Redaction(hash=["user.email"], salt=SALT),
        ],
    )
    def test_arguments_of_partial_are_stored_by_airflow(self, redaction):
        dag, _ = self.mapped(redaction=redaction)
        assert SALT not in serialized(dag)

    def test_one_task_at_a_time_is_to_be_asked_for(self):
        # Of a mapped task Airflow takes what is given to partial, and no default of the operator.
        assert self.mapped()[1].max_active_tis_per_dag is None
        assert self.mapped(max_active_tis_per_dag=1)[1].max_active_tis_per_dag == 1


class TestRunsFollowEachOther:
    def test_one_task_at_a_time_is_the_default(self, lake):
        assert operator(lake).max_active_tis_per_dag == 1
        assert '"max_active_tis_per_dag": 1' in serialized(dag_of(path="x"))

    @pytest.mark.parametrize("many", [None, 3])
    def test_which_can_be_changed(self, lake, many):
        assert operator(lake, max_active_tis_per_dag=many).max_active_tis_per_dag == many
        start = datetime(2026, 1, 1, tzinfo=UTC)
        with DAG("d", schedule=None, start_date=start, default_args={"max_active_tis_per_dag": many}):
            assert operator(lake).max_active_tis_per_dag == many


class TestIntervals:
    def test_a_scheduled_run_is_for_its_data_interval(self, account, lake):
        end = moment_of(account).replace(minute=0, second=0, microsecond=0)
        start = end - timedelta(hours=1)
        xcom = export(account, lake, context_of(account, start, end))
        assert xcom["interval"] == f"{start:%Y%m%dT%H%M%SZ}-{end:%Y%m%dT%H%M%SZ}"
        assert xcom["manifest"] == f"{lake}/_dstny/manifests/{xcom['interval']}.json"
        assert {row["_dstny_synced_at"] for row in rows(lake, "conversations")} == {f"{end:%Y-%m-%dT%H:%M:%S}.000Z"}

    def test_a_run_of_a_mere_schedule_has_an_empty_one(self, account, lake):
        # As Airflow 3 makes them of "@hourly".
        tick = moment_of(account).replace(minute=0, second=0, microsecond=0)
        xcom = export(account, lake, context_of(account, tick, tick))
        assert xcom["interval"] == f"{tick:%Y%m%dT%H%M%SZ}-{tick:%Y%m%dT%H%M%SZ}"
        assert xcom["read"] == 12

    @pytest.mark.parametrize("start", [None, MIDNIGHT])
    def test_a_run_without_one_is_for_the_moment_after_which_it_may_run(self, account, lake, start):
        # Triggered by hand, by an asset, or in part by something unknown.
        xcom = export(account, lake, context_of(account, start, None))
        moment = moment_of(account)
        assert xcom["interval"] == f"{moment:%Y%m%dT%H%M%SZ}-{moment:%Y%m%dT%H%M%SZ}"

    def test_a_later_run_reads_nothing_twice(self, account, lake, clock):
        export(account, lake)
        clock.now += 3600
        assert export(account, lake)["read"] == 0
        assert len(read_ids(account)) == 12

    def test_a_run_after_a_break_lists_what_lies_between(self, account, lake, clock):
        before = moment_of(account) - timedelta(days=5)
        export(account, lake, context_of(account, before, before))
        one = account.rest.add(date=clock() - 3 * 86400)
        export(account, lake)
        assert one.id in read_ids(account)

    def test_a_run_that_is_repeated_late_hides_nothing(self, account, lake, clock):
        # As a cleared task does, one of a backfill, or one that was deferred while others ran.
        now = clock()
        one = account.rest.add(date=now - 7200, arrives_at=now - 7200, transcript_at=now + 5400, title="before")
        first = context_of(account)
        export(account, lake, first)
        account.rest.change(one.id, title="after")
        clock.now += 3600
        export(account, lake)
        clock.now += 4 * 3600
        export(account, lake, first)
        clock.now += 3600
        export(account, lake)
        found = [row for row in rows(lake, "conversations") if row["conversation_id"] == one.id]
        latest = max(found, key=lambda row: row["_dstny_synced_at"])
        assert (latest["title"], latest["transcript_shape"]) == ("after", one.transcript_shape)


class TestXCom:
    def test_it_is_paths_and_counts(self, account, lake):
        xcom = export(account, lake)
        assert json.loads(json.dumps(xcom)) == xcom
        assert set(xcom) == {"manifest", "interval", "requests", "rows", *COUNTS}
        assert (xcom["listed"], xcom["read"], xcom["complete"], xcom["left"]) == (12, 12, 12, 0)
        assert xcom["requests"] == len(account.books.entries)
        assert xcom["rows"] == {
            table: len(rows(lake, table))
            for table in (
                "conversations",
                "departments",
                "insights",
                "participants",
                "team_members",
                "teams",
                "transcript_segments",
                "users",
            )
        }

    def test_nothing_that_was_said_is_in_xcom_or_log(self, account, lake, caplog, capsys):
        caplog.set_level("DEBUG")
        told = json.dumps(export(account, lake)) + caplog.text + capsys.readouterr().out
        one = next(iter(account.rest.conversations.values()))
        landed = (lake / next(name for name in files(lake) if name.startswith("raw/conv"))).read_text()
        for said in (one.summary, one.title, one.participants[0]["email"], "switchboard"):
            assert said in landed
            assert said not in told
        assert account.rest_token not in told + landed

    def test_only_the_tables_that_were_asked_for_are_filled(self, account, lake):
        xcom = export(account, lake, tables=["conversations", "teams"])
        assert set(xcom["rows"]) == {"conversations", "teams"}
        asked = [entry.path for entry in account.books.entries if entry.operation in ("list_users", READ)]
        assert len(asked) == 12


class TestDryRun:
    def test_it_tells_a_plan_and_writes_nothing(self, account, lake, capsys, connect):
        connect(account, daily_conversation_quota=5)
        events = OutletEventAccessors()
        xcom = export(account, lake, context_of(account, outlet_events=events), dry_run=True, outlets=[LAKE])
        assert json.loads(json.dumps(xcom)) == xcom
        assert set(xcom) == {"dry_run", "days", *COUNTS}
        assert xcom["dry_run"] is True
        assert [day["conversations"] for day in xcom["days"]] == [5, 5, 2]
        assert (xcom["listed"], xcom["left"], xcom["read"]) == (12, 7, 0)
        assert "in 2 days" in capsys.readouterr().out
        assert read_ids(account) == []
        assert not lake.exists()
        assert events[LAKE].extra == {}

    def test_it_plans_what_a_run_then_does(self, account, lake):
        planned = export(account, lake, dry_run=True)["days"][0]
        assert export(account, lake)["read"] == planned["conversations"] == 12
        assert export(account, lake, dry_run=True)["days"][0]["conversations"] == 0


def deferred(account, lake, **kwargs):
    with pytest.raises(TaskDeferred) as caught:
        export(account, lake, on_quota="defer", **kwargs)
    assert isinstance(caught.value.trigger, DateTimeTrigger)
    assert caught.value.method_name == "execute_after_pause"
    return caught.value.trigger.moment


def next_day(account):
    return datetime.combine(moment_of(account).date() + timedelta(days=1), datetime.min.time(), UTC)


class TestQuota:
    @pytest.fixture
    def account(self, account, connect, clock, moved_clock):
        connect(account, daily_conversation_quota=5)
        moved_clock(clock)
        return account

    def test_what_the_connection_allows_is_kept_and_the_rest_is_left(self, account, lake):
        xcom = export(account, lake)
        assert (xcom["read"], xcom["left"]) == (5, 7)
        assert len(read_ids(account)) == 5
        assert xcom["rows"]["conversations"] == 12, "of the others the row of the list is landed"

    def test_a_reserve_is_left_to_others(self, account, lake):
        assert export(account, lake, quota_reserve=2)["read"] == 3
        assert export(account, lake, quota_reserve=2)["read"] == 0, "of the same day"

    def test_a_task_that_defers_goes_on_until_nothing_is_left(self, account, lake, clock, capsys):
        context = context_of(account)
        for left in (7, 2):
            assert deferred(account, lake, context=context) == next_day(account)
            assert f"{left} conversations are left to read" in capsys.readouterr().out
            clock.now = next_day(account).timestamp()
        xcom = operator(lake, on_quota="defer").execute_after_pause(context, {})
        assert (xcom["left"], xcom["read"], xcom["rows"]["conversations"]) == (0, 2, 12)
        assert len(read_ids(account)) == len(set(read_ids(account))) == 12
        assert len(list(lake.glob("_dstny/manifests/*"))) == 1
        assert all(row["transcript_shape"] for row in rows(lake, "conversations"))

    def test_a_task_that_defers_seconds_before_midnight_waits_a_little_longer(self, account, lake, clock):
        clock.now = next_day(account).timestamp() - 2
        assert deferred(account, lake) == moment_of(account) + timedelta(seconds=30)

    def test_what_others_have_used_is_found_out(self, account, lake, clock, connect):
        with Simulator(
            samples=12, fresh=0, requests_per_minute=None, daily_conversation_quota=4, clock=clock
        ) as running:
            connect(running)
            context = context_of(running)
            pause = deferred(running, lake, context=context) - datetime.now(UTC)
            assert abs(pause - (next_day(running) - moment_of(running))) < timedelta(seconds=30)
            assert export(running, lake, context)["left"] == 8, "the same, without deferring"
            clock.now = next_day(running).timestamp()
            # What was told to the process goes by the real clock.
            throttle._throttles.clear()
            assert export(running, lake, context)["read"] == 4

    def test_a_reserve_that_leaves_nothing_is_refused(self, account, lake):
        with pytest.raises(AirflowFailException, match="quota_reserve"):
            export(account, lake, quota_reserve=5, on_quota="defer")

    def test_no_outlet_is_told_before_the_end(self, account, lake):
        events = OutletEventAccessors()
        deferred(account, lake, context=context_of(account, outlet_events=events), outlets=[LAKE])
        assert events[LAKE].extra == {}


class TestFailures:
    def test_more_than_allowed_fail_the_task_after_the_others_have_landed(self, account, lake):
        account.books.inject(Fault("status", READ, status=422))
        with pytest.raises(AirflowException, match="1 conversations could not be read; max_failures is 0") as caught:
            export(account, lake, concurrency=1)
        assert not isinstance(caught.value, AirflowFailException), "a retry may pass"
        assert len(rows(lake, "insights")) == 11 * 2
        xcom = export(account, lake)
        assert (xcom["read"], xcom["failed"], xcom["rows"]["conversations"]) == (1, 0, 12)
        assert len(read_ids(account)) == 13

    def test_as_many_as_are_allowed_are_counted(self, account, lake):
        account.books.inject(Fault("status", READ, status=422, times=2))
        xcom = export(account, lake, max_failures=2, concurrency=1)
        assert (xcom["failed"], xcom["read"]) == (2, 10)

    def test_after_three_in_a_row_the_others_are_left(self, account, lake):
        account.books.inject(Fault("status", READ, status=422, times=3))
        xcom = export(account, lake, max_failures=12, concurrency=1)
        assert (xcom["failed"], xcom["read"], xcom["left"]) == (3, 0, 9)
        assert len(read_ids(account)) == 3

    def test_a_long_pause_is_spent_in_the_triggerer(self, account, lake):
        account.books.inject(Fault("status", READ, status=429, retry_after=600))
        before = datetime.now(UTC)
        with pytest.raises(TaskDeferred) as caught:
            export(account, lake, deferrable=True, concurrency=1)
        assert timedelta(0) <= caught.value.trigger.moment - before - timedelta(seconds=600) < timedelta(seconds=30)


class TestOutlets:
    def test_each_asset_is_told_what_the_xcom_tells(self, account, lake):
        other = Asset("other")
        events = OutletEventAccessors()
        events[LAKE].extra["kept"] = events[other].extra["kept"] = 1
        context = context_of(account, outlet_events=events)
        xcom = export(account, lake, context, outlets=[LAKE, AssetAlias("alias"), other])
        assert events[LAKE].extra == events[other].extra == {"kept": 1, **xcom}

    def test_none_is_told_of_a_failure(self, account, lake):
        events = OutletEventAccessors()
        account.books.inject(Fault("status", READ, status=422))
        with pytest.raises(AirflowException):
            export(account, lake, context_of(account, outlet_events=events), outlets=[LAKE])
        assert events[LAKE].extra == {}


def test_dag_files_import_neither_the_export_nor_what_it_needs():
    folder = Path(__file__).parents[2] / "example_dags"
    added = imported_by(f"""
import json, sys
sys.path.insert(0, {str(folder)!r})
import example_lake_export, example_backfill
print(json.dumps(sorted(sys.modules)))
""")
    assert "example_lake_export" in added
    heavy = ("pyarrow", "duckdb", "airflow_provider_dstny.landing", "airflow_provider_dstny.export")
    assert not [name for name in added if name.startswith((*heavy, "airflow_provider_dstny.api.models"))]
