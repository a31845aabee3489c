from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest

from airflow_provider_dstny import get_provider_info
from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.hooks.dstny import DstnyHook
from airflow_provider_dstny.simulator import Fault

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
    for kind in DstnyHook.__mro__:
        if "aget_connection" in vars(kind):
            mocker.patch.object(kind, "aget_connection", new=property(lambda self: self.not_there))

    async def run():
        async with hook.get_async_conn() as dstny:
            return dstny.base_url

    assert asyncio.run(run()) == "https://api.example.com/api/v2"


def test_one_client_may_serve_several_event_loops(connect, simulator):
    dstny = connect(host=simulator.url, password=simulator.token).get_conn()
    for _ in range(3):
        assert len(asyncio.run(dstny.list_users.aio())) == 2


class TestForms:
    form = get_provider_info()["connection-types"][0]

    def test_the_manifest_is_valid_to_airflow(self):
        import airflow
        from jsonschema import validate

        schema = Path(airflow.__file__).parent / "provider_info.schema.json"
        validate(get_provider_info(), json.loads(schema.read_text()))

    def test_the_classes_of_the_manifest_exist(self):
        assert self.form["hook-class-name"] == f"{DstnyHook.__module__}.{DstnyHook.__qualname__}"
        assert self.form["hook-name"] == DstnyHook.hook_name
        assert self.form["connection-type"] == DstnyHook.conn_type
        info = get_provider_info()
        kinds = {"operators": "Operator", "sensors": "Sensor", "triggers": "Trigger", "hooks": "Hook"}
        for kind, suffix in kinds.items():
            for module in info[kind][0]["python-modules"]:
                assert any(name.endswith(suffix) for name in vars(import_module(module))), module

    def test_every_field_has_an_extra_behind_it_and_the_port_is_visible(self):
        from airflow_provider_dstny.hooks.base import ConnectionExtra

        assert set(self.form["conn-fields"]) == set(ConnectionExtra.model_fields)
        assert "port" not in self.form["ui-field-behaviour"]["hidden-fields"]

    def test_older_airflows_get_the_same_form_from_the_hook(self, mocker):
        for name in ("flask_babel", "wtforms", "wtforms.validators"):
            mocker.patch.dict(sys.modules, {name: MagicMock(spec=ModuleType)})
        for name in ("StringField", "IntegerField", "FloatField"):
            setattr(sys.modules["wtforms"], name, MagicMock(return_value=name))
        sys.modules["wtforms.validators"].Optional = MagicMock()
        sys.modules["flask_babel"].lazy_gettext = str
        widgets = DstnyHook.get_connection_form_widgets()
        assert list(widgets) == list(self.form["conn-fields"])
        assert widgets["max_retries"] == "IntegerField"
        assert widgets["timeout"] == "FloatField"
        assert widgets["verify"] == "StringField"
        behaviour = DstnyHook.get_ui_field_behaviour()
        assert behaviour["relabeling"] == self.form["ui-field-behaviour"]["relabeling"]
        assert behaviour["hidden_fields"] == self.form["ui-field-behaviour"]["hidden-fields"]
