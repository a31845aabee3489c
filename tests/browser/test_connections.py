"""Connections as people make, read, change and test them."""

from __future__ import annotations

import json

import pytest

from airflow_provider_dstny.hooks.base import ConnectionExtra
from airflow_provider_dstny.provider_info import connection_form
from demo.local_airflow import free_port
from tests.browser.ui import ConnectionsPage

PLACES = {
    "dstny": "Settings → Api → Token",
    "dstny_rest": "Settings → REST API",
    "tellcasey": "tellcasey",
}
EXTRA = {
    "timeout": 20,
    "max_retries": 2,
    "requests_per_minute": 50,
    "verify": "/etc/ssl/certs/company.pem",
    "throttle_url": "redis://:${PACE_PASSWORD}@redis:6379/0",
    "webhook_secrets": "whsec-first-secret,whsec-second-secret",
    "paths": '{"get_transcript": "/calls/{conversation_id}/transcript"}',
}
EXTRAS = {
    "dstny": {**EXTRA, "app_url": "https://app.example.com"},
    "dstny_rest": {**EXTRA, "app_url": "https://app.example.com", "daily_conversation_quota": 800},
    "tellcasey": EXTRA,
}
MEANT = {"verify": "/etc/ssl/certs/company.pem", "webhook_secrets": ["whsec-first-secret", "whsec-second-secret"]}
MASKED = {"password", "webhook_secrets"}
TYPES = list(EXTRAS)


@pytest.fixture
def connections(page, lab):
    # So high that no form has to be scrolled.
    page.set_viewport_size({"width": 1280, "height": 1800})
    yield ConnectionsPage(page)
    for connection in lab.airflow.get("/connections")["connections"]:
        lab.airflow.delete(f"/connections/{connection['connection_id']}")


@pytest.fixture
def stored(lab, tmp_path):
    """Read a connection as Airflow has it."""

    def stored(conn_id):
        path = tmp_path / "connections.json"
        lab.airflow.run("connections", "export", str(path), "--file-format", "json")
        found = json.loads(path.read_text("utf-8"))[conn_id]
        return {**found, "extra": json.loads(found["extra"])}

    return stored


@pytest.mark.parametrize("conn_type", TYPES)
def test_a_connection_is_made_by_its_form_and_read_back_whole(lab, connections, stored, camera, conn_type):
    manifest, conn_id = connection_form(conn_type), f"{conn_type}_sales"
    behaviour, extra = manifest["ui-field-behaviour"], EXTRAS[conn_type]
    standard = {
        "description": "Calls of the sales team",
        "host": behaviour["placeholders"]["host"],
        "password": f"{conn_type}-token-of-a-form",
        "port": "443",
    }
    form = connections.add()
    form.choose(conn_id, manifest["hook-name"])
    relabelled = behaviour["relabeling"]
    assert list(form.fields()) == ["Description", relabelled["host"], relabelled["password"], relabelled["port"]]
    form.fill(standard)
    camera.take(f"form_{conn_type}", form.dialog)

    form.open("Extra Fields")
    fields = manifest["conn-fields"]
    assert form.fields() == {field["label"]: field["description"] for field in fields.values()}
    assert set(extra) == set(fields)
    form.fill({f"element_{name}": value for name, value in extra.items()})
    shown = {name: form.input(name if name == "password" else f"element_{name}") for name in ["password", *fields]}
    assert {name for name, one in shown.items() if one.get_attribute("type") == "password"} == MASKED
    camera.take(f"form_{conn_type}_extra", form.dialog)
    form.save()

    made = stored(conn_id)
    assert {name: made[name] for name in ("conn_type", *standard)} == {"conn_type": conn_type, **standard, "port": 443}
    assert made["extra"] == extra
    usable = ConnectionExtra.parse(made["extra"])
    assert usable.model_dump(include=set(extra)) == {**extra, **MEANT, "paths": json.loads(extra["paths"])}

    told = lab.airflow.get(f"/connections/{conn_id}")
    assert told["password"] == "***"
    assert json.loads(told["extra"]) == {**extra, "webhook_secrets": "***"}

    form = connections.edit(conn_id)
    assert form.values(list(standard)) == {**standard, "password": "***"}
    form.open("Extra Fields")
    written = {f"element_{name}": str(value) for name, value in extra.items()}
    assert form.values(list(written)) == {**written, "element_webhook_secrets": "***"}
    form.save()
    assert stored(conn_id) == made


@pytest.mark.parametrize("conn_type", TYPES)
def test_the_test_button_says_what_is_good_and_what_to_mend(lab, connections, camera, conn_type):
    manifest, conn_id = connection_form(conn_type), f"{conn_type}_sales"
    # Airflow 3.3.1 and 3.3.2 cannot test a connection without a port; the one in the base URL counts.
    fields = {"host": lab.simulator.url, "password": lab.tokens[conn_type], "port": 443}
    form = connections.add()
    form.choose(conn_id, manifest["hook-name"])
    form.fill(fields)
    form.save()
    page = connections.page
    page.set_viewport_size({"width": 1280, "height": 470})

    good, told = connections.test(conn_id)
    assert good, told
    assert told.startswith(f"Reached {manifest['hook-name']} at {lab.simulator.url}/")
    if conn_type == "dstny_rest":
        assert "conversations, transcripts, insights" in told
    if conn_type == "dstny":
        camera.take("test_connection_good", page)

    form = connections.edit(conn_id)
    form.fill({"password": "a-token-that-was-revoked"})
    form.save()
    good, told = connections.test(conn_id)
    assert not good
    assert "401" in told
    assert PLACES[conn_type] in told
    assert "password" in told
    assert "a-token-that-was-revoked" not in told
    if conn_type == "dstny":
        camera.take("test_connection_bad", page)

    form = connections.edit(conn_id)
    form.fill({"host": f"http://127.0.0.1:{free_port()}"})
    form.save()
    good, told = connections.test(conn_id)
    assert not good
    assert "could not reach" in told
    assert "check the connection's host" in told


@pytest.mark.parametrize("conn_type", TYPES)
def test_what_is_left_out_means_the_default(connections, stored, conn_type):
    conn_id = f"{conn_type}_sales"
    form = connections.add()
    form.choose(conn_id, connection_form(conn_type)["hook-name"])
    form.fill({"password": "only-a-token"})
    form.open("Extra Fields")
    form.save()
    made = stored(conn_id)
    assert (made["host"] or "", made["port"]) == ("", None)
    assert ConnectionExtra.parse(made["extra"]).client_options() == {}
