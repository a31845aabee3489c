from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, task
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields
from jinja2 import UndefinedError

from airflow_provider_dstny.api import DstnyClient
from airflow_provider_dstny.api.errors import DstnyAmbiguousError, DstnyApiError, DstnyServerError, DstnyTimeoutError
from airflow_provider_dstny.api.models import Team, TeamCreate, TeamUpdate, User, UserCreate, UserUpdate
from airflow_provider_dstny.operators import teams, users
from airflow_provider_dstny.operators.teams import (
    DstnyAssignTeamUsersOperator,
    DstnyCreateTeamOperator,
    DstnyUpdateTeamOperator,
)
from airflow_provider_dstny.operators.users import DstnyCreateUserOperator, DstnyUpdateUserOperator
from airflow_provider_dstny.provider_info import PROVIDER_INFO
from airflow_provider_dstny.simulator import Fault

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # before Airflow 3.2
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

PHONE = "+46701740605"
USER = {"email": "ulla.berg@example.com", "first_name": "Ulla", "last_name": "Berg", "mobile_number": PHONE}
ERIK = {"email": "Erik.Lindqvist@EXAMPLE.com", "first_name": "Erik", "last_name": "Lindqvist"}
TEAM = {"name": "Onboarding", "description": "New customers"}
SALES = {"name": " Sales ", "description": "Sales"}
SALES_ID = "75fc3b9a-0000-4000-8000-000000000001"
WRITES = ("create_user", "update_user", "create_team", "update_team", "assign_team_users")


class TaskStateStore(dict):
    """As of Airflow 3.3: one per task instance, kept over its tries and over clearing."""

    def set(self, key, value):
        self[key] = json.loads(json.dumps(value))

    def delete(self, key):
        self.pop(key, None)


@pytest.fixture
def context():
    return {"ti": SimpleNamespace(try_number=1, max_tries=1), "task_state_store": TaskStateStore()}


def next_try(context):
    context["ti"].try_number += 1


def clear(context):
    """What Airflow does to a task instance that is cleared."""
    context["ti"].max_tries = context["ti"].try_number + 1
    context["ti"].try_number += 1


def create_user(user=USER, **kwargs):
    return DstnyCreateUserOperator(task_id="t", user=user, **kwargs)


def create_team(team=TEAM, **kwargs):
    return DstnyCreateTeamOperator(task_id="t", team=team, **kwargs)


def update_user(changes, user_id=1):
    return DstnyUpdateUserOperator(task_id="t", user_id=user_id, changes=changes)


def update_team(changes, team_id=SALES_ID):
    return DstnyUpdateTeamOperator(task_id="t", team_id=team_id, changes=changes)


def assign(user_ids, team_id=SALES_ID):
    return DstnyAssignTeamUsersOperator(task_id="t", team_id=team_id, user_ids=user_ids)


def requests(account):
    assert account.books.violations == []
    return [entry.operation for entry in account.books.entries]


def rows(account, operation):
    with DstnyClient(account.url, account.token) as dstny:
        return [row.raw for row in getattr(dstny, operation)()]


#: How one is created, what is listed, and an existing one as it is there and with another field.
KINDS = pytest.mark.parametrize(
    ("create", "kind", "new", "there", "there_id"),
    [(create_user, "user", USER, ERIK, 1), (create_team, "team", TEAM, SALES, SALES_ID)],
    ids=["user", "team"],
)


@KINDS
class TestCreating:
    def test_what_is_not_there_is_created_after_one_look(self, account, context, create, kind, new, there, there_id):
        xcom = create(new).execute(context)
        assert requests(account) == [f"list_{kind}s", f"create_{kind}"]
        (row,) = [row for row in rows(account, f"list_{kind}s") if row["id"] == xcom]
        assert new.items() <= row.items()

    def test_what_is_there_fails_and_is_named(self, account, context, create, kind, new, there, there_id):
        for _ in range(2):
            with pytest.raises(AirflowFailException, match=rf"id {there_id}\b"):
                create(there).execute(context)
            clear(context)
        assert requests(account) == [f"list_{kind}s"] * 2

    def test_what_is_there_is_left_alone(self, account, context, create, kind, new, there, there_id):
        other = {**there, "can_use_ai_agents": True}
        assert create(other, if_exists="skip").execute(context) == there_id
        assert requests(account) == [f"list_{kind}s"]

    def test_only_what_differs_is_sent(self, account, context, create, kind, new, there, there_id, mocker):
        changed = {**there, "can_use_ai_agents": True}
        update = mocker.spy(DstnyClient, "request")
        assert create(changed, if_exists="update").execute(context) == there_id
        assert update.call_args.kwargs["json"] == {"can_use_ai_agents": True}
        assert requests(account) == [f"list_{kind}s", f"update_{kind}"]
        assert create(changed, if_exists="update").execute(context) == there_id
        assert requests(account) == [f"list_{kind}s", f"update_{kind}", f"list_{kind}s"]

    @pytest.mark.parametrize("if_exists", ["fail", "skip", "update"])
    def test_a_retry_attaches_to_what_an_earlier_try_created(
        self, account, context, create, kind, new, there, there_id, if_exists
    ):
        xcom = create(new, if_exists=if_exists).execute(context)
        next_try(context)
        assert create(new, if_exists=if_exists).execute(context) == xcom
        assert requests(account) == [f"list_{kind}s", f"create_{kind}"]

    def test_after_a_lost_answer_a_retry_looks(self, account, context, create, kind, new, there, there_id):
        account.books.inject(Fault("reset", f"create_{kind}"))
        with pytest.raises(DstnyAmbiguousError):
            create(new).execute(context)
        next_try(context)
        xcom = create(new).execute(context)
        assert xcom == rows(account, f"list_{kind}s")[-1]["id"]
        assert account.books.count(f"create_{kind}") == 1

    def test_what_cannot_be_found_is_sent_again_only_if_told_so(
        self, account, context, create, kind, new, there, there_id
    ):
        account.books.inject(Fault("reset", f"create_{kind}", before=True))
        for _ in range(2):
            with pytest.raises(DstnyAmbiguousError):
                create(new).execute(context)
            next_try(context)
        assert account.books.count(f"create_{kind}") == 1
        create(new, resubmit_ambiguous=True).execute(context)
        assert account.books.count(f"create_{kind}") == 2
        assert account.books.count(f"list_{kind}s") == 3, "one look a try"

    def test_clearing_a_task_that_succeeded_runs_it_anew(self, account, context, create, kind, new, there, there_id):
        xcom = create(new).execute(context)
        clear(context)
        with pytest.raises(AirflowFailException, match=rf"id {xcom}\b"):
            create(new).execute(context)
        clear(context)
        assert create(new, if_exists="skip").execute(context) == xcom

    @pytest.mark.parametrize("status", [500, 404])
    def test_a_look_that_fails_is_not_taken_for_a_creation(
        self, account, context, create, kind, new, there, there_id, status
    ):
        account.books.inject(Fault("status", f"list_{kind}s", status=status, times=2))
        with pytest.raises(DstnyApiError, match=str(status)):
            create(new).execute(context)
        account.books.faults.clear()
        next_try(context)
        create(new).execute(context)
        assert account.books.count(f"create_{kind}") == 1

    @pytest.mark.parametrize("if_exists", ["skip", "update"])
    def test_what_is_created_between_look_and_creation_is_there(
        self, account, context, create, kind, new, there, there_id, if_exists, mocker
    ):
        if_first_empty(mocker, f"list_{kind}s")
        account.books.inject(Fault("status", f"create_{kind}", status=409))
        assert create(there, if_exists=if_exists).execute(context) == there_id
        assert account.books.count(f"update_{kind}") == 0

    def test_it_fails_then_if_it_must_not_be_there(self, account, context, create, kind, new, there, there_id, mocker):
        if_first_empty(mocker, f"list_{kind}s")
        account.books.inject(Fault("status", f"create_{kind}", status=409))
        with pytest.raises(AirflowFailException, match=rf"id {there_id}\b"):
            create(there).execute(context)
        # It is somebody else's: no run of this task attaches to it.
        clear(context)
        with pytest.raises(AirflowFailException, match=rf"id {there_id}\b"):
            create(there).execute(context)
        assert account.books.count(f"create_{kind}") == 1

    def test_a_look_that_fails_after_a_conflict_does_not_attach_later(
        self, account, context, create, kind, new, there, there_id, mocker
    ):
        if_first_empty(mocker, f"list_{kind}s", then=DstnyTimeoutError("late"))
        account.books.inject(Fault("status", f"create_{kind}", status=409))
        with pytest.raises(DstnyTimeoutError):
            create(there).execute(context)
        next_try(context)
        with pytest.raises(AirflowFailException, match=rf"id {there_id}\b"):
            create(there).execute(context)

    def test_a_conflict_with_something_else_is_told(self, account, context, create, kind, new, there, there_id):
        account.books.inject(Fault("status", f"create_{kind}", status=409, message="No seat left"))
        with pytest.raises(DstnyApiError, match="No seat left"):
            create(new).execute(context)
        next_try(context)
        create(new).execute(context)

    def test_a_retry_on_an_older_airflow_finds_it_there(self, account, context, create, kind, new, there, there_id):
        old = {"ti": context["ti"]}
        xcom = create(new).execute(old)
        next_try(old)
        assert create(new, if_exists="skip").execute(old) == xcom
        assert account.books.count(f"create_{kind}") == 1

    @pytest.mark.parametrize("if_exists", ["", "FAIL", None, True, "replace"])
    def test_a_choice_that_does_not_exist_is_refused_when_the_dag_is_read(
        self, create, kind, new, there, there_id, if_exists
    ):
        with pytest.raises(ValueError, match="if_exists"):
            create(new, if_exists=if_exists)


def if_first_empty(mocker, name, then=None):
    """Let the first list of a client be empty and, if ``then`` is an error, the second fail."""
    operation = getattr(DstnyClient, name)
    answers = iter([[], *([then] if then else [])])

    class Listing:
        def __get__(self, client, owner):
            def call():
                answer = next(answers, None)
                if isinstance(answer, Exception):
                    raise answer
                return operation.__get__(client, owner)() if answer is None else answer

            return call

    mocker.patch.object(DstnyClient, name, Listing())


def test_a_new_user_with_a_taken_address_is_refused_by_the_api_itself(account, context, mocker):
    if_first_empty(mocker, "list_users")
    assert create_user(ERIK, if_exists="skip").execute(context) == 1
    assert requests(account) == ["create_user", "list_users"]


def test_a_user_is_also_found_by_its_username(account, context):
    update_user({"email": "e.l@example.com"}).execute(context)
    assert create_user(ERIK, if_exists="skip").execute(context) == 1
    assert create_user({**ERIK, "email": "E.L@example.com"}, if_exists="update").execute(context) == 1
    assert requests(account) == ["update_user", "list_users", "list_users"]


def test_a_name_of_another_case_is_another_team(account, context):
    assert create_team({**SALES, "name": "sales"}).execute(context) != SALES_ID


@pytest.mark.parametrize("if_exists", ["fail", "skip", "update"])
def test_several_teams_of_one_name_are_told(account, context, if_exists):
    with DstnyClient(account.url, account.token) as dstny:
        twin = dstny.create_team({**SALES, "low_priority_bot": True})
    with pytest.raises(AirflowFailException, match=f"Several such teams.*{SALES_ID}.*{twin.id}"):
        create_team(SALES, if_exists=if_exists).execute(context)
    assert requests(account) == ["create_team", "list_teams"]


class TestChanging:
    def test_a_user(self, account, context):
        assert update_user({"first_name": "Eric"}, user_id=" 1 ").execute(context) == 1
        assert update_user(UserUpdate(mobile_number=PHONE)).execute(context) == 1
        assert requests(account) == ["update_user"] * 2
        row = rows(account, "list_users")[0]
        assert (row["first_name"], row["mobile_number"]) == ("Eric", PHONE)

    def test_a_team(self, account, context):
        assert update_team({"description": "Sells"}, team_id=f" {SALES_ID} ").execute(context) == SALES_ID
        assert requests(account) == ["update_team"]
        assert rows(account, "list_teams")[0]["description"] == "Sells"

    def test_an_unknown_id_may_be_retried(self, account, context):
        with pytest.raises(DstnyApiError, match="404"):
            update_user({"first_name": "x"}, user_id=99).execute(context)

    def test_a_server_error_may_be_retried(self, account, context):
        account.books.inject(Fault("status", "update_team"))
        with pytest.raises(DstnyServerError):
            update_team({"description": "x"}).execute(context)
        next_try(context)
        assert update_team({"description": "x"}).execute(context) == SALES_ID


class TestAssigning:
    def test_members_are_not_sent_again(self, account, context):
        assert assign([1]).execute(context) == SALES_ID
        assert requests(account) == ["list_team_users"]

    def test_all_are_sent_if_one_is_missing(self, account, context, mocker):
        request = mocker.spy(DstnyClient, "request")
        assert assign((1, "2", 2)).execute(context) == SALES_ID
        assert request.call_args.kwargs["json"] == {"user_ids": [1, 2]}
        assert requests(account) == ["list_team_users", "assign_team_users"]
        assert assign([2, 1]).execute(context) == SALES_ID
        assert account.books.count("assign_team_users") == 1

    def test_after_a_lost_answer_a_retry_looks(self, account, context):
        account.books.inject(Fault("reset", "assign_team_users"))
        with pytest.raises(DstnyAmbiguousError):
            assign([2]).execute(context)
        next_try(context)
        assert assign([2]).execute(context) == SALES_ID
        assert account.books.count("assign_team_users") == 1

    @pytest.mark.parametrize("user_ids", [[], "[1]", "1", 1, None, {1: 2}, [True], [1.0], ["x"], [None], [[1]]])
    def test_what_is_no_list_of_integers_fails_at_once(self, account, context, user_ids):
        with pytest.raises(AirflowFailException, match="user_ids"):
            assign(user_ids).execute(context)
        assert account.books.entries == []

    def test_what_a_new_user_returns_can_be_assigned(self, account, context):
        user_id = create_user().execute(context)
        assign([user_id]).execute(context)
        assert account.books.count("assign_team_users") == 1


WRONG = [
    (create_user, {**USER, "email": "ulla secret"}, "email"),
    (create_user, {**USER, "mobile_number": 46701740605}, "mobile_number"),
    (create_user, {**USER, "mobil": PHONE}, "mobil"),
    (create_user, {**USER, PHONE: "x"}, r"\*\*\*"),
    (create_user, {"email": USER["email"]}, "last_name"),
    (update_user, {}, "nothing to change"),
    (update_user, {"is_passive": "secret"}, "is_passive"),
    (create_team, {"name": " ", "description": "secret"}, "name"),
    (create_team, {**TEAM, "managers": ["secret"]}, "managers"),
    (update_team, {"descripton": "secret"}, "descripton"),
    (update_team, {"managers": None}, "managers"),
]


@pytest.mark.parametrize(("create", "payload", "named"), WRONG)
def test_a_wrong_field_fails_at_once_is_named_and_not_shown(account, context, create, payload, named, caplog):
    with pytest.raises(AirflowFailException, match=named) as caught:
        create(payload).execute(context)
    assert account.books.entries == []
    for text in (str(caught.value), caplog.text):
        assert "secret" not in text
        assert "174060" not in text


@pytest.mark.parametrize("wrong_id", ["", " ", None, True])
def test_a_wrong_id_fails_at_once(account, context, wrong_id):
    for operator in (
        update_user({"first_name": "x"}, user_id=wrong_id),
        update_team({"name": "x"}, team_id=wrong_id),
        assign([1], team_id=wrong_id),
    ):
        with pytest.raises(AirflowFailException, match="_id"):
            operator.execute(context)
    assert account.books.entries == []


@pytest.mark.parametrize("create", [create_user, update_user, create_team, update_team])
@pytest.mark.parametrize("payload", [json.dumps(USER), PHONE, "", None, 7, [USER], User.read(USER), Team.read(TEAM)])
def test_what_is_no_mapping_is_refused_and_not_shown(create, payload):
    with pytest.raises(AirflowFailException, match="render_template_as_native_obj=True") as caught:
        create(payload)
    assert "174060" not in str(caught.value)


def test_a_template_that_rendered_to_text_is_refused_and_not_shown(account, context):
    operator = create_user("{{ user }}")
    with pytest.raises(AirflowFailException, match="render_template_as_native_obj=True") as caught:
        operator.render_template_fields({"user": USER})
    assert "174060" not in str(caught.value)
    with pytest.raises(AirflowFailException, match="render_template_as_native_obj=True"):
        operator.execute(context)
    assert account.books.entries == []


def test_with_native_objects_only_templates_are_rendered_at_any_depth(mocker):
    plain = {"callback": PHONE, "pin": "1_000", "tags": ["1.10", {"0x10": "['a']"}]}
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), render_template_as_native_obj=True):

        @task
        def up():
            return "x"

        output = up()
        operator = create_user(
            {**USER, "settings": {**plain, "limits": [{"calls": "{{ params.calls }}"}, "007"], "from": [output]}}
        )
    assert operator.upstream_task_ids == {"up"}
    copied = operator.prepare_for_execution()
    mocker.patch.object(type(output), "resolve", return_value="1.20")
    copied.render_template_fields({"params": {"calls": 10}})
    assert copied.user.fields["settings"] == {**plain, "limits": [{"calls": 10}, "007"], "from": ["1.20"]}
    assert operator.user.fields["settings"]["from"] == [output]


def test_models_are_taken(account, context):
    assert create_user(UserCreate.parse(USER)).execute(context) == 3
    assert create_team(TeamCreate.parse(SALES), if_exists="skip").execute(context) == SALES_ID
    assert update_team(TeamUpdate(auto_join_meeting_bot=None)).execute(context) == SALES_ID
    assert rows(account, "list_teams")[0]["auto_join_meeting_bot"] is None


def test_a_connection_of_another_api_is_refused(account, context, monkeypatch):
    connection = {"conn_type": "dstny_rest", "host": account.url, "password": account.rest_token}
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))
    for operator in (create_user(), create_team(), update_user(USER), update_team(TEAM), assign([1])):
        with pytest.raises(AirflowFailException, match="it must be 'dstny'"):
            operator.execute(context)


def test_the_fields_that_are_known_while_dags_are_parsed_are_those_of_the_models():
    assert set(users._FIELDS) == set(UserCreate.model_fields) == set(UserUpdate.model_fields)
    assert set(teams._FIELDS) == set(TeamCreate.model_fields) == set(TeamUpdate.model_fields)


def test_the_manifest_lists_both_modules():
    (listed,) = PROVIDER_INFO["operators"]
    assert {users.__name__, teams.__name__} <= set(listed["python-modules"])


class TestPrivacy:
    @pytest.fixture(params=[create_user, update_user])
    def operator(self, request):
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
            return request.param({**USER, "mobile_number": PHONE, "first_name": "{{ params.name }}", "x y": PHONE})

    @pytest.fixture(params=[PHONE, 46701740605, "070-17", "{{ params.phone }}"])
    def payload(self, request):
        return {**USER, "mobile_number": request.param, "mobil": request.param, "first_name": "{{ params.name }}"}

    def test_numbers_are_not_stored_shown_or_logged(self, payload, caplog):
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
            create = create_user(payload)
            serialized = json.dumps(DagSerialization.to_dict(dag))
        with pytest.raises(UndefinedError):
            create_user({**payload, "last_name": "{{ nothing.there }}"}).render_template_fields({"params": {}})
        assert "nothing.there" in caplog.text
        create.render_template_fields({"params": {"name": "Rendered", "phone": PHONE}})
        rendered = json.dumps(_serialize_rendered_fields(create))
        assert "Rendered" in rendered
        for text in (serialized, rendered, repr(create.user), caplog.text):
            assert "174060" not in text
            assert "070-17" not in text
        assert create.user.fields["first_name"] == "Rendered"

    def test_each_rendering_starts_from_the_templates(self, operator):
        for name in ("first", "second"):
            copied = operator.prepare_for_execution()
            copied.render_template_fields({"params": {"name": name}})
            assert copied.payload_fields()["first_name"] == name
            assert copied.payload_fields()["mobile_number"] == PHONE


class TestMapping:
    @pytest.mark.parametrize(
        ("operator", "partial", "mapped"),
        [
            (DstnyCreateUserOperator, {}, {"user": [USER, ERIK]}),
            (DstnyUpdateUserOperator, {"changes": {"first_name": "x"}}, {"user_id": [1, 2]}),
            (DstnyCreateTeamOperator, {}, {"team": [TEAM, SALES]}),
            (DstnyUpdateTeamOperator, {"team_id": SALES_ID}, {"changes": [TEAM, SALES]}),
            (DstnyAssignTeamUsersOperator, {"team_id": SALES_ID}, {"user_ids": [[2], [1]]}),
        ],
    )
    def test_every_operator_can_be_mapped(self, account, context, operator, partial, mapped):
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
            expanded = operator.partial(task_id="t", **partial).expand(**mapped)
        ((name, values),) = mapped.items()
        expanded.unmap({name: values[0]}).execute(context)
        assert sum(account.books.count(write) for write in WRITES) == 1

    def test_what_comes_from_another_task_is_masked_and_no_template(self):
        given = {**USER, "first_name": "{{ var.value.secret }}"}
        create = create_user(given)
        create._do_render_template_fields(create, create.template_fields, {}, create.get_template_env(), {id(given)})
        assert create.payload_fields() == given
        assert PHONE not in json.dumps(_serialize_rendered_fields(create))
        other = create_user({**USER, "first_name": "{{ name }}"})
        other._do_render_template_fields(
            other, other.template_fields, {"name": "Ulla"}, other.get_template_env(), {id(given)}
        )
        assert other.payload_fields() == USER

    def test_the_output_of_a_task_is_upstream_also_within_a_payload(self):
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):

            @task
            def up():
                return {}

            whole = DstnyCreateUserOperator(task_id="whole", user=up())
            part = DstnyCreateTeamOperator(task_id="part", team={**TEAM, "managers": [whole.output]})
        assert whole.upstream_task_ids == {"up"}
        assert part.upstream_task_ids == {"whole"}
