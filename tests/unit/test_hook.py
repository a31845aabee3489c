from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_dstny import get_provider_info
from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.hooks import aget_client_hook, get_client_hook
from airflow_provider_dstny.hooks.dstny import DstnyHook
from airflow_provider_dstny.hooks.dstny_rest import DstnyRestHook
from airflow_provider_dstny.hooks.tellcasey import TellcaseyHook
from airflow_provider_dstny.provider_info import connection_form
from airflow_provider_dstny.simulator import Fault, Simulator

TOKEN = "eyJhbGciOiJIUzI1NiJ9.secret"


@pytest.fixture
def connect(monkeypatch):
    def connect(**fields):
        connection = {"conn_type": "dstny", "host": "https://api.example.com", "password": TOKEN, **fields}
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))
        return DstnyHook()

    return connect


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({}, "https://api.example.com/api/v2"),
        ({"host": "https://api.example.com/"}, "https://api.example.com/api/v2"),
        ({"host": "https://api.example.com/api/v2/"}, "https://api.example.com/api/v2"),
        ({"host": "https://gw.example.com/dstny"}, "https://gw.example.com/dstny/api/v2"),
        ({"host": "api.example.com"}, "https://api.example.com/api/v2"),
        ({"host": "127.0.0.1", "schema": "http", "port": 8000}, "http://127.0.0.1:8000/api/v2"),
        ({"host": "http://127.0.0.1:8000", "port": 443}, "http://127.0.0.1:8000/api/v2"),
        ({"host": "https://api.example.com", "port": 443}, "https://api.example.com:443/api/v2"),
        ({"host": "https://api.example.com", "port": 0}, "https://api.example.com/api/v2"),
        ({"host": "http://[::1]", "port": 8000}, "http://[::1]:8000/api/v2"),
    ],
)
def test_the_address_is_composed_from_the_fields_of_the_connection(connect, fields, base_url):
    assert connect(**fields).get_conn().base_url == base_url


def test_a_connection_uri_works(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", f"dstny://:{TOKEN}@api.example.com:8443/?max_retries=2")
    client = DstnyHook().get_conn()
    assert client.base_url == "https://api.example.com:8443/api/v2"
    assert client._max_retries == 2


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"host": ""}, "host"),
        ({"host": "ftp://api.example.com"}, "host"),
        ({"host": "https://user:pw@api.example.com"}, "host"),
        ({"host": "https://"}, "host"),
        ({"password": ""}, "password"),
        ({"password": "to ken"}, "password"),
        ({"password": "töken"}, "password"),
        ({"password": "token\nX-Evil: 1"}, "password"),
        ({"extra": {"timeout": 0}}, "timeout"),
        ({"extra": {"timeout": "soon"}}, "timeout"),
        ({"extra": {"max_retries": -1}}, "max_retries"),
        ({"extra": {"requests_per_minute": 0}}, "requests_per_minute"),
        ({"extra": {"paths": "not json"}}, "paths"),
        ({"extra": {"paths": {"nope": "/x"}}}, "paths"),
        ({"extra": {"verify": "/does/not/exist.pem"}}, "verify"),
        ({"host": "https://[bad"}, "host"),
        ({"extra": {"timeout": 1e10}}, "timeout"),
        ({"extra": {"timeout": "inf"}}, "timeout"),
        ({"extra": {"paths": "[" * 5000}}, "paths"),
        ({"extra": {"throttle_url": "http://cache.example.com"}}, "throttle_url"),
        ({"extra": {"throttle_url": "redis://:${DSTNY_NOWHERE}@cache.example.com"}}, "throttle_url"),
    ],
)
def test_a_field_that_cannot_work_is_named_and_no_token_is_shown(connect, fields, named):
    hook = connect(**fields)
    with pytest.raises(DstnyValidationError, match=named) as caught:
        hook.get_conn().list_users()
    secret = fields.get("password") or TOKEN
    assert secret not in str(caught.value)
    assert "pw" not in str(caught.value)
    ok, message = hook.test_connection()
    assert not ok
    assert named in message


def test_extras_come_as_types_or_as_the_text_of_a_form(connect):
    typed = {"timeout": 5, "max_retries": 0, "verify": False, "paths": {"list_users": "/people"}}
    text = {"timeout": "5", "max_retries": "0", "verify": "False", "paths": '{"list_users": "/people"}'}
    for extra in (typed, text):
        client = connect(extra=extra).get_conn()
        assert (client._timeout, client._max_retries, client._verify) == (5, 0, False)
        assert client.request("list_users").path == "/people"


def test_empty_extras_of_a_form_mean_the_default(connect):
    client = connect(extra={"timeout": "", "max_retries": None, "verify": "", "paths": ""}).get_conn()
    assert (client._timeout, client._max_retries, client._verify) == (30, 4, True)


def test_unknown_extras_are_named_in_the_log(connect, mocker):
    hook = connect(extra={"request_per_minute": 60})
    warning = mocker.patch.object(hook.log, "warning")
    hook.get_conn()
    assert "request_per_minute" in str(warning.call_args)


def test_the_connection_is_resolved_once(connect, mocker):
    hook = connect()
    resolve = mocker.patch.object(hook, "get_connection", wraps=hook.get_connection)
    hook.get_conn()
    hook.get_conn()
    assert resolve.call_count == 1


def test_nothing_prints_the_token(connect):
    hook = connect()
    assert TOKEN not in f"{hook!r} {hook.get_conn()!r} {hook.get_conn()} {vars(hook)}"


def test_an_embed_token_is_kept_from_the_logs_of_airflow(connect, simulator):
    from airflow.providers.common.compat.sdk import redact

    with connect(host=simulator.url, password=simulator.token).get_conn() as dstny:
        token = dstny.create_embed_token("erik.lindqvist@example.com")
    assert len(token) > 20
    assert token not in redact(f"the page is https://app.example.com/embed?token={token}")


def test_a_password_within_a_throttle_url_is_kept_from_the_logs_of_airflow(connect, monkeypatch):
    from airflow.providers.common.compat.sdk import redact

    monkeypatch.setenv("DSTNY_TEST_PASSWORD", "h1dden-w0rd")
    url = "redis://me:${DSTNY_TEST_PASSWORD}@cache.example.com"
    hook = connect(extra={"throttle_url": url})
    client = hook.get_conn()
    assert "h1dden-w0rd" not in redact("the store is redis://me:h1dden-w0rd@cache.example.com")
    assert "h1dden-w0rd" not in f"{hook!r} {client!r} {vars(hook)}"


def test_test_connection_says_that_the_shared_pace_was_not_reached(connect, simulator):
    fields = {"host": simulator.url, "password": simulator.token}
    ok, message = connect(**fields, extra={"throttle_url": "redis://:s3cret@127.0.0.1:1"}).test_connection()
    assert ok
    assert "throttle_url: Redis at 127.0.0.1:1 was not reached from here" in message
    assert "s3cret" not in message


def test_test_connection_says_what_it_reached(connect, simulator):
    ok, message = connect(host=simulator.url, password=simulator.token).test_connection()
    assert ok
    assert simulator.url in message
    assert "teams it sees: 1" in message


def test_test_connection_says_which_field_to_mend_and_does_not_retry(connect, simulator, no_sleep):
    ok, message = connect(host=simulator.url).test_connection()
    assert not ok
    assert "connection's password" in message
    simulator.books.inject(Fault("status", status=503, times=9))
    ok, message = connect(host=simulator.url, password=simulator.token).test_connection()
    assert not ok
    assert sum(no_sleep) == 0
    ok, message = connect(host="http://127.0.0.1:1").test_connection()
    assert not ok
    assert "could not reach http://127.0.0.1:1" in message


def test_the_async_connection_works_and_closes(connect, simulator):
    async def run():
        async with connect(host=simulator.url, password=simulator.token).get_async_conn() as dstny:
            users = await dstny.list_users.aio()
            assert dstny._ahttp is not None
        assert dstny._ahttp is None
        return users

    assert len(asyncio.run(run())) == 2


def test_without_an_async_lookup_the_blocking_one_runs_in_a_thread(connect, mocker):
    # Airflow 3.0 has no BaseHook.aget_connection.
    hook = connect()
    older = SimpleNamespace(get_connection=BaseHook.get_connection)
    mocker.patch("airflow_provider_dstny.hooks.base.BaseHook", older)

    async def run():
        async with hook.get_async_conn() as dstny:
            return dstny.base_url

    assert asyncio.run(run()) == "https://api.example.com/api/v2"


def test_one_client_may_serve_several_event_loops(connect, simulator):
    dstny = connect(host=simulator.url, password=simulator.token).get_conn()
    for _ in range(3):
        assert len(asyncio.run(dstny.list_users.aio())) == 2


class TestTheHookOfAConnection:
    @pytest.fixture
    def connections(self, monkeypatch):
        for name, fields in {
            "dstny": {"host": "https://api.example.com"},
            "dstny_rest": {"host": "https://api.example.com"},
            "tellcasey": {},
            "http": {"host": "https://api.example.com"},
        }.items():
            connection = {"conn_type": name, "password": TOKEN, **fields}
            monkeypatch.setenv(f"AIRFLOW_CONN_A_{name.upper()}", json.dumps(connection))

    @pytest.mark.parametrize(
        ("name", "hook_class", "base_url"),
        [
            ("dstny", DstnyHook, "https://api.example.com/api/v2"),
            ("dstny_rest", DstnyRestHook, "https://api.example.com/api/v1/rest"),
            ("tellcasey", TellcaseyHook, "https://api.tellcasey.com/v1/backend"),
        ],
    )
    def test_it_fits_the_type_and_the_connection_is_resolved_once(
        self, connections, mocker, name, hook_class, base_url
    ):
        lookup = mocker.spy(BaseHook, "get_connection")
        hook = get_client_hook(f"a_{name}")
        assert type(hook) is hook_class
        with hook.get_conn() as client:
            assert client.base_url == base_url
        assert lookup.call_count == 1

        async def run():
            hook = await aget_client_hook(f"a_{name}")
            async with hook.get_async_conn() as client:
                return type(hook), client.base_url

        assert asyncio.run(run()) == (hook_class, base_url)

    def test_another_type_is_refused_with_what_would_do(self, connections):
        with pytest.raises(DstnyValidationError, match=r"is of type 'http'; it must be 'dstny' .* or 'tellcasey'"):
            get_client_hook("a_http")
        with pytest.raises(DstnyValidationError, match=r"it must be 'dstny_rest' \(Dstny REST API v1\)"):
            get_client_hook("a_dstny", ["dstny_rest"])

    def test_a_host_of_tellcasey_may_be_given(self, monkeypatch):
        connection = {"conn_type": "tellcasey", "host": "http://127.0.0.1:3002", "password": "sk_test_x"}
        monkeypatch.setenv("AIRFLOW_CONN_TELLCASEY_DEFAULT", json.dumps(connection))
        assert TellcaseyHook().get_conn().base_url == "http://127.0.0.1:3002/v1/backend"


class TestConnectionTests:
    @pytest.fixture
    def limited(self, monkeypatch, no_sleep):
        scopes = ["conversations", "transcripts", "users"]
        with Simulator(rest_tokens={"mt_limited": scopes}) as simulator:
            for name, conn_type, token in (
                ("DSTNY_REST", "dstny_rest", "mt_limited"),
                ("TELLCASEY", "tellcasey", simulator.tellcasey_token),
            ):
                connection = {"conn_type": conn_type, "host": simulator.url, "password": token}
                monkeypatch.setenv(f"AIRFLOW_CONN_{name}_DEFAULT", json.dumps(connection))
            yield simulator

    def test_v1_names_the_account_and_the_scopes(self, limited):
        ok, message = DstnyRestHook().test_connection()
        assert ok, message
        assert "Account: Telco Demo." in message or "Account: " in message
        assert "Scopes it has: conversations, transcripts, users;" in message
        assert "scopes it lacks: insights, recordings, teams, departments;" in message
        assert "not to be told: notetaker." in message
        assert limited.books.violations == []
        assert limited.books.count("list_conversations") == 0, "no conversation is touched"

    def test_v1_stops_asking_when_the_limit_is_reached(self, limited, no_sleep):
        limited.books.inject(Fault("status", "get_insights", status=429, retry_after=60))
        ok, message = DstnyRestHook().test_connection()
        assert ok
        assert "not to be told: insights, recordings, users, teams, departments, notetaker." in message
        assert max(no_sleep) < 10

    def test_tellcasey_tells_whether_the_key_is_accepted(self, limited, monkeypatch):
        ok, message = TellcaseyHook().test_connection()
        assert ok
        assert "it sees conversations" in message
        connection = {"conn_type": "tellcasey", "host": limited.url, "password": "sk_live_wrong"}
        monkeypatch.setenv("AIRFLOW_CONN_TELLCASEY_DEFAULT", json.dumps(connection))
        ok, message = TellcaseyHook().test_connection()
        assert not ok
        assert "API keys in tellcasey" in message


FORMS = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
forms = HookMetaService.hook_meta_data()
print(json.dumps({form.connection_type: form.model_dump(mode="json") for form in forms}))
"""


@pytest.fixture(scope="module")
def shown_forms():
    """What Airflow's API server tells the page of connections."""
    if not hasattr(BaseHook, "aget_connection"):
        pytest.importorskip("wtforms", reason="Airflow 3.0 shows no fields of providers without wtforms")
    done = subprocess.run([sys.executable, "-c", FORMS], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class TestForms:
    @pytest.fixture(params=[DstnyHook, DstnyRestHook, TellcaseyHook])
    def hook_class(self, request):
        return request.param

    @pytest.fixture
    def form(self, hook_class):
        return connection_form(hook_class.conn_type)

    def test_the_manifest_is_valid_to_airflow(self):
        import airflow
        from jsonschema import validate

        schema = Path(airflow.__file__).parent / "provider_info.schema.json"
        validate(get_provider_info(), json.loads(schema.read_text()))

    def test_a_form_belongs_to_its_hook(self, hook_class, form):
        assert form["hook-class-name"] == f"{hook_class.__module__}.{hook_class.__qualname__}"
        assert form["hook-name"] == hook_class.hook_name
        assert hook_class.default_conn_name == f"{hook_class.conn_type}_default"

    def test_the_classes_of_the_manifest_exist(self):
        info = get_provider_info()
        kinds = {"operators": "Operator", "sensors": "Sensor", "triggers": "Trigger", "hooks": "Hook"}
        for kind, suffix in kinds.items():
            for module in info[kind][0]["python-modules"]:
                assert any(name.endswith(suffix) for name in vars(import_module(module))), module
        for transfer in info["transfers"]:
            module = import_module(transfer["python-module"])
            assert any(name.endswith("ToObjectStorageOperator") for name in vars(module))

    def test_every_field_has_an_extra_behind_it_and_the_port_is_visible(self, form):
        from airflow_provider_dstny.hooks.base import ConnectionExtra

        # The pages of tellcasey are not known, and one API only has a quota.
        unknown = {
            "dstny": {"daily_conversation_quota"},
            "dstny_rest": set(),
            "tellcasey": {"app_url", "daily_conversation_quota"},
        }[form["connection-type"]]
        assert set(form["conn-fields"]) == set(ConnectionExtra.model_fields) - unknown
        assert "port" not in form["ui-field-behaviour"]["hidden-fields"]

    def test_labels_have_the_names_that_messages_have(self, form):
        labels = form["ui-field-behaviour"]["relabeling"]
        assert "(host)" in labels["host"]
        assert "(password)" in labels["password"]
        assert "443" in labels["port"], "without a port, the Test button of Airflow 3.3.2 tells nothing but Bad Request"
        assert form["ui-field-behaviour"]["placeholders"]["password"].endswith("…")

    def test_what_limits_a_token_stands_together(self, form):
        names = [name for name in form["conn-fields"] if name != "daily_conversation_quota"]
        assert names[2:4] == ["requests_per_minute", "throttle_url"]
        if form["connection-type"] == "dstny_rest":
            assert list(form["conn-fields"])[2:4] == ["requests_per_minute", "daily_conversation_quota"]

    def test_airflow_shows_the_form(self, shown_forms, form):
        shown, behaviour = shown_forms[form["connection-type"]], form["ui-field-behaviour"]
        assert shown["hook_name"] == form["hook-name"]
        assert {name: field["schema"]["title"] for name, field in shown["extra_fields"].items()} == {
            name: field["label"] for name, field in form["conn-fields"].items()
        }
        assert shown["extra_fields"]["webhook_secrets"]["schema"]["format"] == "password"
        for name, label in behaviour["relabeling"].items():
            assert shown["standard_fields"][name]["title"] == label

    def test_older_airflows_get_the_same_form_from_the_hook(self, mocker, hook_class, form):
        for name in ("wtforms", "wtforms.validators"):
            mocker.patch.dict(sys.modules, {name: MagicMock(spec=ModuleType)})
        for name in ("StringField", "IntegerField", "PasswordField"):
            setattr(sys.modules["wtforms"], name, MagicMock(return_value=name))
        sys.modules["wtforms.validators"].Optional = MagicMock()
        widgets = hook_class.get_connection_form_widgets()
        assert {"get_connection_form_widgets", "get_ui_field_behaviour"} <= set(vars(hook_class)), (
            "inherited do not count"
        )
        assert list(widgets) == list(form["conn-fields"])
        assert widgets["max_retries"] == "IntegerField"
        assert widgets["timeout"] == widgets["verify"] == "StringField"
        assert widgets["webhook_secrets"] == "PasswordField"
        behaviour = hook_class.get_ui_field_behaviour()
        assert behaviour["relabeling"] == form["ui-field-behaviour"]["relabeling"]
        assert behaviour["hidden_fields"] == form["ui-field-behaviour"]["hidden-fields"]
