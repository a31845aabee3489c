"""The pages of Airflow's UI, as far as people meet this provider there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect


@dataclass
class Camera:
    """Saves what is seen; without a folder, does nothing."""

    folder: Path | None

    def take(self, name: str, seen: Page | Locator, *, height: int | None = None) -> None:
        """Save a page, up to so many pixels from its top, or a part of it."""
        if self.folder is None:
            return
        page = seen if isinstance(seen, Page) else seen.page
        # Where the mouse rests, something may be lit up.
        page.mouse.move(0, 0)
        clip: dict[str, Any] = {}
        if height is not None:
            clip = {"clip": {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height}}
        self.folder.mkdir(parents=True, exist_ok=True)
        seen.screenshot(path=self.folder / f"{name}.png", animations="disabled", **clip)


class ConnectionForm:
    """The dialog in which a connection is made or changed."""

    def __init__(self, page: Page) -> None:
        self.dialog = page.get_by_role("dialog")
        self._page = page
        expect(self.dialog.locator("[name=connection_id]")).to_be_visible()

    def choose(self, conn_id: str, kind: str) -> None:
        """Name a new connection and choose its type by what the form calls it."""
        self.input("connection_id").fill(conn_id)
        self.dialog.get_by_role("combobox").last.click()
        self._page.keyboard.type(kind)
        self._page.get_by_role("option", name=kind, exact=True).click()
        expect(self.input("host")).to_be_visible()

    def open(self, section: str) -> None:
        """Open a section, which closes the others."""
        button = self.dialog.get_by_role("button", name=section, exact=True)
        if button.get_attribute("aria-expanded") == "false":
            button.click()
        expect(button).to_have_attribute("aria-expanded", "true")
        # It grows for a moment.
        self.dialog.evaluate("form => Promise.all(form.getAnimations({subtree: true}).map(one => one.finished))")

    def input(self, name: str) -> Locator:
        return self.dialog.locator(f"[name={name}]")

    def fields(self) -> dict[str, str]:
        """Return the fields of the section that is open: label to help text."""
        found = {}
        for field in self.dialog.locator("[data-scope=accordion] [data-scope=field][data-part=root]:visible").all():
            help_text = field.locator("[data-part=helper-text]")
            label = field.locator("[data-part=label]").inner_text().strip()
            found[label] = help_text.inner_text() if help_text.count() else ""
        return found

    def fill(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.input(name).fill(str(value))
            self.input(name).blur()

    def values(self, names: list[str]) -> dict[str, str]:
        return {name: self.input(name).input_value() for name in names}

    def save(self) -> None:
        self.dialog.get_by_role("button", name="Save").click()
        expect(self.dialog).to_be_hidden()


class ConnectionsPage:
    """*Admin → Connections*."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self) -> None:
        """Show the list anew, without the messages of earlier steps, which may lie over a button."""
        self.page.goto("/connections")

    def add(self) -> ConnectionForm:
        self.open()
        self.page.get_by_role("button", name="Add Connection").click()
        return ConnectionForm(self.page)

    def row(self, conn_id: str) -> Locator:
        cell = self.page.get_by_test_id("table-cell-connection_id").get_by_text(conn_id, exact=True)
        return self.page.locator("tr", has=cell)

    def edit(self, conn_id: str) -> ConnectionForm:
        self.open()
        self.row(conn_id).get_by_role("button", name="Edit Connection").click()
        return ConnectionForm(self.page)

    def test(self, conn_id: str) -> tuple[bool, str]:
        """Press *Test Connection*; return whether it succeeded, and what the person was told."""
        self.open()
        button = self.row(conn_id).get_by_role("button", name="Test Connection")
        with self.page.expect_response("**/connections/test") as answer:
            button.click()
        told = answer.value.json()
        assert answer.value.ok, told
        expect(button.locator("svg")).to_have_attribute("color", "green" if told["status"] else "red")
        toast = self.toast("Test Connection Successful" if told["status"] else "Test Connection Failed")
        expect(toast).to_contain_text(told["message"])
        return told["status"], told["message"]

    def toast(self, title: str) -> Locator:
        return self.page.locator("[data-scope=toast][data-part=root]").filter(has_text=title)


class RunPage:
    """A run of a DAG, and its tasks."""

    def __init__(self, page: Page, dag_id: str, run_id: str) -> None:
        self.page = page
        self._path = f"/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"

    def open(self) -> None:
        self.page.goto(self._path)

    def states(self) -> Locator:
        """Return the states in the list of task instances."""
        return self.page.get_by_test_id("table-cell-state")

    def open_graph(self) -> Locator:
        """Show the graph as wide as the page, with what is in its groups."""
        self.open()
        self.page.get_by_label("Show Graph").click()
        expand = self.page.get_by_test_id("expand-all-button")
        if expand.is_enabled():
            expand.click()
        self.page.get_by_label("Collapse Details Panel").click()
        graph = self.page.get_by_test_id("rf__wrapper")
        graph.get_by_label("Fit View").click()
        return graph

    def open_task(self, task_id: str, map_index: int | None = None, tab: str | None = None) -> None:
        mapped = "" if map_index is None else f"/mapped/{map_index}"
        self.page.goto(f"{self._path}/tasks/{quote(task_id)}{mapped}")
        if tab:
            self.page.get_by_role("link", name=tab, exact=True).click()

    def link(self, name: str) -> Locator:
        return self.page.get_by_role("link", name=name, exact=True)

    def rendered(self) -> dict[str, str]:
        """Return the rendered fields of the task that is open."""
        rows = self.page.get_by_test_id("main-content").locator("table tr")
        expect(rows.first).to_be_visible()
        return {row.locator("td").first.inner_text(): row.locator("td").nth(1).inner_text() for row in rows.all()}
