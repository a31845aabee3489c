from __future__ import annotations

import csv
import json
import time
from datetime import UTC, datetime

import pytest
import yaml
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.sdk import DAG, task
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.operators.directory import DstnySyncDirectoryOperator
from airflow_provider_dstny.simulator import Fault

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # before Airflow 3.2
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

PHONE = "+46701740605"
LISTS = {"list_users", "list_teams", "list_team_users"}
#: Erik and the team Sales, with Erik in it, are in a fresh account.
ERIK = {"email": "Erik.Lindqvist@example.com", "first_name": "Erik", "last_name": "Lindqvist"}
NINA = {"email": "nina@example.com", "first_name": "Nina", "last_name": "Ek", "mobile_number": PHONE}
OLOF = {"email": "olof@example.com", "first_name": "Olof", "last_name": "Ek"}
SALES = {"name": "Sales", "description": "Sales", "members": [NINA["email"]], "managers": [NINA["email"]]}
NORTH = {"name": "North", "description": "", "members": [OLOF["email"], ERIK["email"]]}
NOTHING = {"added": 0, "changed": 0, "unchanged": 0, "unmanaged": 0}


def sync(**kwargs):
    return DstnySyncDirectoryOperator(task_id="sync", **kwargs).execute({})


def asked(account, since=0):
    return [entry.operation for entry in account.books.entries[since:]]


def writes(account, since=0):
    return [operation for operation in asked(account, since) if operation not in LISTS]


def test_the_account_becomes_what_is_declared_and_a_second_run_writes_nothing(account):
    declared = {"users": [ERIK, NINA, OLOF], "teams": [SALES, NORTH]}
    first = sync(**declared)
    assert first == {
        "dry_run": False,
        "users": {"added": 2, "changed": 0, "unchanged": 1, "unmanaged": 1},
        "teams": {"added": 1, "changed": 1, "unchanged": 0, "unmanaged": 0},
        "memberships": {"added": 3, "unchanged": 0, "unmanaged": 1},
        "not_compared": 0,
        "requests": 9,
    }
    assert asked(account) == [
        *("list_users", "list_teams", "list_team_users"),
        *("create_user", "create_user", "create_team", "update_team", "assign_team_users", "assign_team_users"),
    ]
    second = sync(**declared)
    assert writes(account, since=9) == []
    assert second["users"] == {"added": 0, "changed": 0, "unchanged": 3, "unmanaged": 1}
    assert second["memberships"] == {"added": 0, "unchanged": 3, "unmanaged": 1}
    assert second["requests"] == len(account.books.entries) - 9 == 4
    with DstnyClient(account.url, account.token) as dstny:
        sales, _ = dstny.list_teams()
        assert [user.email for user in dstny.list_team_users(str(sales.id))] == [ERIK["email"].lower(), NINA["email"]]
        assert sales.managers == [3]
    assert account.books.violations == []


def test_a_thousand_users_and_fifty_teams_cost_one_request_per_change(account):
    users = [{**ERIK, "email": f"user{number}@example.com", "is_passive": True} for number in range(1000)]
    teams = [
        {"name": f"Team {number}", "description": "", "members": [one["email"] for one in users[number::50]]}
        for number in range(50)
    ]
    begin = time.monotonic()
    xcom = sync(users=users, teams=teams, max_changes=None)
    assert xcom["requests"] == len(account.books.entries) == 1000 + 50 + 50 + 2
    assert xcom["memberships"]["added"] == 1000
    assert time.monotonic() - begin < 60

    sent = len(account.books.entries)
    xcom = sync(users=users, teams=teams)
    assert xcom["users"] == {"added": 0, "changed": 0, "unchanged": 1000, "unmanaged": 2}
    assert xcom["requests"] == len(account.books.entries) - sent == 2 + 50
    assert writes(account, since=sent) == []


def test_too_many_changes_are_refused_before_the_first(account, capsys):
    users = [{**ERIK, "email": f"user{number}@example.com"} for number in range(3)]
    with pytest.raises(AirflowFailException, match=r"has 3 changes, more than max_changes=2.* set max_changes=3"):
        sync(users=users, max_changes=2)
    assert writes(account) == []
    assert sync(users=users, max_changes=2, dry_run=True)["users"]["added"] == 3
    assert "max_changes=2 would refuse" in capsys.readouterr().out
    assert sync(users=users, max_changes=3)["users"]["added"] == 3


def test_a_dry_run_shows_the_plan_without_phone_numbers_and_writes_nothing(account, capsys):
    xcom = sync(users=[ERIK, NINA], teams=[SALES, NORTH | {"members": []}], dry_run="True")
    assert writes(account) == []
    assert xcom["dry_run"] is True
    assert xcom["requests"] == 3
    log = capsys.readouterr().out
    for line in (
        "+ user nina@example.com  mobile_number: ***",
        '~ team Sales  managers: [] -> ["nina@example.com"]',
        '+ team North  description: ""',
        "+ members of team Sales  nina@example.com",
        "users: 1 added, 0 changed, 1 unchanged, 1 unmanaged",
        "left as they are: sara.holm@example.com",
    ):
        assert line in log
    assert PHONE[1:] not in log


def test_one_failure_is_named_the_others_go_on_and_a_retry_does_the_rest(account):
    account.books.inject(Fault("status", "create_user", status=409, message="Taken"))
    declared = {"users": [NINA, OLOF], "teams": [SALES, {**NORTH, "members": [NINA["email"], OLOF["email"]]}]}
    with pytest.raises(AirflowException, match=r"user nina@example.com: 409") as caught:
        sync(**declared)
    assert not isinstance(caught.value, AirflowFailException)
    assert "1 of 6 changes failed and 2 were not tried" in str(caught.value)
    assert "users: 1 added, 0 changed; teams: 1 added, 0 changed; memberships: 1 added" in str(caught.value)

    sent = len(account.books.entries)
    assert sync(**declared)["memberships"] == {"added": 2, "unchanged": 1, "unmanaged": 1}
    assert writes(account, since=sent) == ["create_user", "update_team", "assign_team_users", "assign_team_users"]
    assert sync(**declared)["users"]["unchanged"] == 2


def test_addresses_that_are_phone_numbers_are_not_told_of_failures_and_each_is_counted(account, capsys):
    account.books.inject(Fault("status", "create_user", status=409, message="Taken", times=2))
    users = [NINA | {"email": f"{PHONE}{n}@op.example"} for n in range(2)]
    with pytest.raises(AirflowException, match=r"2 of \d changes failed .* 1\. user \*\*\*@op.example: 409") as caught:
        sync(users=users, teams=[SALES | {"managers": [], "members": [users[0]["email"]]}])
    assert PHONE[1:] not in str(caught.value) + capsys.readouterr().out


@pytest.mark.parametrize(("kind", "created"), [("reset", 2), ("truncated", 2), ("status", 1)])
def test_after_a_lost_answer_the_retry_sees_what_happened(account, kind, created):
    account.books.inject(Fault(kind, "create_user", status=502))
    with pytest.raises(AirflowException, match=r"user nina@example\.com"):
        sync(users=[NINA, OLOF])
    sent = len(account.books.entries)
    assert sync(users=[NINA, OLOF])["users"]["unchanged"] == created
    assert len(writes(account, since=sent)) == 2 - created


@pytest.mark.parametrize(("status", "final"), [(401, True), (403, True), (429, False)])
def test_what_meets_all_ends_the_round(account, status, final):
    account.books.inject(Fault("status", "create_user", status=status, retry_after=600, times=9))
    with pytest.raises(AirflowException, match="1 of 2 changes failed") as caught:
        sync(users=[NINA, OLOF])
    assert isinstance(caught.value, AirflowFailException) is final
    assert writes(account) == ["create_user"]


def test_a_team_that_could_not_be_created_gets_no_members(account):
    account.books.inject(Fault("status", "create_team", status=422))
    with pytest.raises(AirflowFailException, match="team North: 422"):
        sync(teams=[{**NORTH, "members": [ERIK["email"]]}])
    assert writes(account) == ["create_team"]


def test_what_is_not_managed_is_not_asked_for(account):
    assert sync(users=[ERIK])["teams"] == NOTHING
    assert asked(account) == ["list_users"]
    assert sync(teams=[{"name": "Sales", "description": "Sales"}])["users"] == NOTHING
    assert asked(account)[1:] == ["list_teams"]
    with pytest.raises(AirflowFailException, match="nothing to do"):
        sync(users="", teams=None)


def test_what_the_lists_do_not_show_is_named_and_not_sent_again(account, capsys):
    xcom = sync(users=[{**ERIK, "deleteMeetingRecordingDays": "30", "mobile_number": PHONE}])
    assert xcom["not_compared"] == 2
    assert writes(account) == []
    assert "deleteMeetingRecordingDays (1), mobile_number (1)" in capsys.readouterr().out


USER_ROWS = [{**NINA, "is_passive": False, "email_aliases": ["n@example.com", "ek@example.com"]}, OLOF]
TEAM_ROWS = [{"name": "Sales", "description": "Sales", "members": ["n@example.com", OLOF["email"]], "managers": [1, 2]}]


def written(path, rows):
    match path.suffix:
        case ".csv":
            names = list({name: None for row in rows for name in row})
            cells = [
                {
                    name: ";".join(map(str, value)) if isinstance(value, list) else str(value)
                    for name, value in row.items()
                }
                for row in rows
            ]
            with path.open("w", newline="", encoding="utf-8-sig") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(cells)
        case ".jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        case ".json":
            path.write_text(json.dumps(rows))
        case _:
            path.write_text(yaml.safe_dump(rows))
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "yaml", "yml"])
def test_files_of_every_kind_say_the_same(account, tmp_path, suffix):
    paths = {
        "users": written(tmp_path / f"users.{suffix}", USER_ROWS),
        "teams": f"file://{written(tmp_path / f'teams.{suffix}', TEAM_ROWS)}",
    }
    sync(**paths)
    with DstnyClient(account.url, account.token) as dstny:
        nina, olof = dstny.list_users()[2:]
        assert {name: nina.raw[name] for name in USER_ROWS[0]} == USER_ROWS[0]
        assert {name for name in olof.raw if name in USER_ROWS[0]} == set(OLOF)
        (sales,) = dstny.list_teams()
        assert sales.managers == [1, 2]
        assert [user.id for user in dstny.list_team_users(str(sales.id))] == [1, 3, 4]
    sent = len(account.books.entries)
    sync(users=USER_ROWS, teams=TEAM_ROWS)
    assert writes(account, since=sent) == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("users.json", f"[{{{PHONE}", "cannot be read as JSON at line 1"),
        ("users.yaml", f"- email: x\n  b: [{PHONE}", "cannot be read as YAML at line 2"),
        ("users.yaml", "email: x", "must be a list of objects"),
        ("users.json", "[" * 100_000, "cannot be read as JSON"),
        ("users.csv", f"email\nx,{PHONE}\n", "users.csv row 1: has more cells"),
        ("users.yml", f"- email: a@example.com\n  mobile_number: {PHONE}\n", "users.yml row 1: mobile_number: Input"),
        ("users.csv", f"email;first_name\nx;{PHONE}\n", "separated by commas, not by semicolons"),
        ("users.csv", f"email,a, a,{PHONE},{PHONE}\nx,{PHONE}\n", r"columns of the same name: a, \*\*\*"),
        (
            "users.yaml",
            f"- email: x\n- b: {PHONE}\n  b: 1\n  {PHONE}: 1\n  {PHONE}: 2\n",
            r"same name at line 2: b, \*\*\*",
        ),
        ("users.CSV", f"email\nx,{PHONE}\n", "users.CSV row 1: has more cells"),
        ("users.csv", f"email\nx\0{PHONE}\n", "users.csv row 1 has a NUL character"),
        ("users.YAML", f"- email: a\n- {{b: [{{c: 'x'}}, \"\\0{PHONE}\"]}}\n", "users.YAML row 2 has a NUL character"),
        ("users.yaml", f"- &a\n  b: *a\n  c: {PHONE}\n", "row 1: email: Field required"),
        ("none.yaml", None, "none.yaml does not exist"),
    ],
)
def test_a_bad_file_is_named_without_what_is_in_it(account, tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(AirflowFailException, match=reason) as caught:
        sync(users=str(path))
    assert PHONE[1:] not in f"{caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r}"
    assert writes(account) == []


def test_all_mistakes_fail_at_once_before_any_write(account):
    with pytest.raises(AirflowFailException) as caught:
        sync(
            users=[NINA, {**OLOF, "mobile_number": [PHONE], "colour": PHONE}, NINA],
            teams=[{**SALES, "members": ["who@example.com"]}],
        )
    for expected in (
        "users row 2: mobile_number: Input should be a valid string; colour: Extra inputs",
        "users row 3: email: nina@example.com is declared at users row 1 already",
        "teams row 1: members: who@example.com is neither declared nor in the account",
    ):
        assert expected in str(caught.value)
    assert PHONE[1:] not in str(caught.value)
    assert asked(account) == ["list_users"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"users": f"[{{'mobile_number': '{PHONE}'}}]"}, "render_template_as_native_obj"),
        ({"teams": "teams.xlsx"}, "teams must be a list"),
        ({"users": {"email": "a@example.com"}}, "users must be a list"),
        ({"users": {**NINA}}, "users must be a list"),
        ({"users": [NINA, f"x;{PHONE}"]}, "users must be a list"),
        ({"teams": [[PHONE]]}, "teams must be a list"),
        ({"teams": 5}, "teams must be a list"),
        ({"users": {PHONE}}, "users must be a list"),
        ({"users": (row for row in [NINA])}, "users must be a list"),
        ({"users": [ERIK], "dry_run": "maybe"}, "dry_run"),
    ],
)
def test_what_cannot_be_a_declaration_is_refused(account, wrong, reason):
    with pytest.raises(AirflowFailException, match=reason) as caught:
        sync(**wrong)
    assert PHONE not in str(caught.value)
    assert account.books.entries == []


@pytest.mark.parametrize("limit", [True, "100", 1.5])
def test_a_limit_that_is_no_number_is_refused(limit):
    with pytest.raises(ValueError, match="max_changes"):
        sync(max_changes=limit)


def dag_with(*, render_template_as_native_obj=False, **kwargs):
    with DAG(
        "d",
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        render_template_as_native_obj=render_template_as_native_obj,
    ) as dag:
        DstnySyncDirectoryOperator(task_id="sync", **kwargs)
    return dag


def test_rendered_fields_and_the_serialized_dag_show_addresses_and_names_only():
    users = [{**NINA, "last_name": "{{ params.name }}", "settings": {"phone": PHONE}}, {"email": PHONE}, {PHONE: 1}]
    dag = dag_with(users=users, teams=[SALES])
    original = dag.get_task("sync")
    for name in ("first", "second"):
        copied = original.prepare_for_execution()
        copied.render_template_fields({"params": {"name": name}})
        assert copied.users.fields[0]["last_name"] == name
        assert copied.users.fields[0]["mobile_number"] == PHONE
        rendered = _serialize_rendered_fields(copied)
        # Airflow 3.0 writes the list as text.
        assert str(rendered["users"]) == str(["nina@example.com", "***", "***"])
        assert str(rendered["teams"]) == str(["Sales"])
    for text in (json.dumps(DagSerialization.to_dict(dag)), repr(original.users)):
        assert PHONE[1:] not in text
        assert "nina@example.com" in text


def test_what_comes_of_another_task_is_upstream_and_masked_too():
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):

        @task
        def up():
            return [NINA]

        whole = DstnySyncDirectoryOperator(task_id="whole", users=up())
        part = DstnySyncDirectoryOperator(task_id="part", users=[{**NINA, "first_name": up()}])
    assert len(whole.upstream_task_ids) == len(part.upstream_task_ids) == 1
    whole.users = [NINA]
    assert str(_serialize_rendered_fields(whole)["users"]) == str(["nina@example.com"])


def test_paths_are_templates():
    rendered = dag_with(users="{{ params.path }}", teams="{{ params.none }}").get_task("sync")
    rendered.render_template_fields({"params": {"path": "s3://b/users.csv", "none": ""}})
    assert (rendered.users, rendered.teams) == ("s3://b/users.csv", "")


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "given", [PHONE, NINA, [PHONE], {PHONE}, 46701740605, "{{ x }} " + PHONE, [NINA, [PHONE]], [{"email": 46701740605}]]
)
def test_what_a_template_renders_to_is_hidden_and_refused_unless_it_is_a_declaration(account, native, given):
    task = dag_with(users="{{ params.given }}", render_template_as_native_obj=native).get_task("sync")
    task.render_template_fields({"params": {"given": given}})
    for text in (json.dumps(_serialize_rendered_fields(task)), repr(task.users)):
        assert "46701740605" not in text
    with pytest.raises(AirflowFailException, match=r"users must be|users row \d") as caught:
        task.execute({})
    assert "46701740605" not in str(caught.value)
    assert writes(account) == []


def test_a_phone_number_stays_text_where_templates_render_to_native_types():
    row = {"email": "nina@example.com", "mobile_number": "{{ params.phone }}", "is_passive": "{{ params.passive }}"}
    dag = dag_with(users=[row], render_template_as_native_obj=True)
    for phone in (PHONE, "46701740605", None):
        copied = dag.get_task("sync").prepare_for_execution()
        copied.render_template_fields({"params": {"phone": phone, "passive": True}})
        assert copied.users.fields == [{**row, "mobile_number": phone, "is_passive": True}]


def test_a_plain_text_stays_text_at_any_depth_where_templates_render_to_native_types():
    row = {"email": "nina@example.com", "settings": {"callback": PHONE, "pins": ["1_000", "{{ params.pin }}"]}}
    task = dag_with(users=[row], render_template_as_native_obj=True).get_task("sync")
    task.render_template_fields({"params": {"pin": 7}})
    assert task.users.fields == [{**row, "settings": {"callback": PHONE, "pins": ["1_000", 7]}}]
