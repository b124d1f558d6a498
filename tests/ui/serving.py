"""A real Dagster UI with its daemon on a deployment of its own, and a real browser that keeps a picture of each step."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from browsers import FLAGS, browser
from deployments import PROFILE, Site
from playwright.sync_api import Locator, Page, Request, ViewportSize, sync_playwright

from resources.lake import REPOSITORY

PICTURES = Path(os.environ.get("PERSONA_TEST_PICTURES") or REPOSITORY / "test-pictures" / "ui")
T = TypeVar("T")
PATIENCE = 180.0
"""Seconds that the UI may take for one step: a daemon tick is 30 s, a run's process starts in ten."""


@dataclass(frozen=True)
class Server:
    """A served deployment."""

    site: Site
    url: str
    log: Path

    def graphql(self, query: str, **variables: Any) -> Any:
        """Ask what the UI itself asks."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # loopback
            found = json.load(answer)
        assert "errors" not in found, found
        return found["data"]

    def materialization(self, *key: str, partition: str | None = None) -> dict[str, Any] | None:
        """The latest materialization of an asset (of a partition): its run, tags and numbers."""
        query = """query ($key: AssetKeyInput!, $partitions: [String!]) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
            assetMaterializations(partitions: $partitions, limit: 1) { runId tags { key value }
            metadataEntries { label ... on FloatMetadataEntry { floatValue } ... on TextMetadataEntry { text } } } } } }"""
        partitions = None if partition is None else [partition]
        found = self.graphql(query, key={"path": [PROFILE, *key]}, partitions=partitions)["assetNodeOrError"]
        return next(iter(found["assetMaterializations"]), None)

    def partitions(self, *key: str) -> dict[str, int]:
        """How many partitions of an asset are in which state, as the UI counts them."""
        query = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { partitionStats {
            numPartitions numMaterialized numFailed numMaterializing } } } }"""
        found = self.graphql(query, key={"path": [PROFILE, *key]})["assetNodeOrError"]["partitionStats"]
        return {name.removeprefix("num").lower(): count for name, count in found.items()}

    def run_status(self, run_id: str) -> str:
        """Status of a run."""
        return str(
            self.graphql("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)["runOrError"][
                "status"
            ]
        )

    def wait_for(self, what: str, condition: Callable[[], T | None], patience: float = PATIENCE) -> T:
        """Ask again and again until there is an answer."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(1)
        raise TimeoutError(f"{what}: not within {patience:.0f} s.\n{self.log.read_text(encoding='utf-8')[-3000:]}")


@contextmanager
def served(site: Site) -> Iterator[Server]:
    """Serve a deployment by `persona-assets ui` on a free port of the loopback, until the block ends."""
    port = free_port()
    log = site.root / "ui.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            site.command("ui", "--port", str(port)),
            env=site.environment(),
            cwd=site.root,  # any directory will do
            stdout=output,
            stderr=output,
            start_new_session=True,
            # A test run in the background ignores the interrupt, and so would the server it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
    server = Server(site, f"http://127.0.0.1:{port}", log)
    try:
        _wait_until_it_answers(server, process)
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and everything that it started."""
    for sign, patience in ((signal.SIGINT, 3), (signal.SIGKILL, 10)):  # nothing is left that would have to be saved
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """Find a free port of the loopback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_until_it_answers(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, server.log.read_text(encoding="utf-8")
        with contextlib.suppress(OSError):
            entries = server.graphql("{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }")
            if [entry["loadStatus"] for entry in entries["workspaceOrError"]["locationEntries"]] == ["LOADED"]:
                return
        time.sleep(0.5)
    raise TimeoutError(f"The UI did not come up.\n{server.log.read_text(encoding='utf-8')}")


@dataclass
class Visit:
    """A browser on the UI. Every step is kept as a picture, numbered in the order of the story."""

    page: Page
    server: Server
    story: str
    taken: list[Path] = field(default_factory=list)
    asked: set[Request] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("request", self._asks)
        self.page.on("requestfinished", self._has_answer)
        self.page.on("requestfailed", self._has_answer)

    def _asks(self, request: Request) -> None:
        self.asked.add(request)

    def _has_answer(self, request: Request) -> None:
        self.asked.discard(request)

    def open(self, path: str) -> None:
        """Open a page of the UI."""
        self.page.goto(f"{self.server.url}{path}", wait_until="commit")

    def settle(self) -> None:
        """Wait until the page has all that it asked the server for, or three seconds: some of it asks all the time."""
        quiet = 0
        for _ in range(30):
            self.page.wait_for_timeout(100)
            quiet = 0 if self.asked else quiet + 1
            if quiet == 3:
                return

    def asset(self, *key: str, view: str | None = None, **query: str) -> None:
        """Open the page of an asset."""
        asked = "&".join(f"{name}={value}" for name, value in {**({"view": view} if view else {}), **query}.items())
        self.open(f"/assets/{'/'.join((PROFILE, *key))}{'?' if asked else ''}{asked}")

    def see(self, text: str, *, exact: bool = False, within: Locator | None = None, patience: float = PATIENCE) -> Locator:
        """Wait until a text is shown, and return where."""
        found = (within or self.page).get_by_text(text, exact=exact).filter(visible=True).first
        found.wait_for(timeout=patience * 1000)
        return found

    def group(self, study: str) -> None:
        """Open the group of a study."""
        self.open(f"/locations/persona/asset-groups/{PROFILE}_{study}/lineage")

    def filter_assets(self, selection: str) -> None:
        """Type a selection into the search field above a graph."""
        self.page.locator(".CodeMirror:visible").last.click()
        self.page.keyboard.insert_text(selection)
        self.page.keyboard.press("Enter")
        self.page.keyboard.press("Escape")
        self.settle()

    def launchpad(self) -> None:
        """Open the launchpad from the page of an asset."""
        self.page.locator("button:has-text('Materialize…') >> xpath=following::button[1]").click()
        self.see("Open launchpad").click()
        self.see("No errors")

    def configure(self, config: str) -> None:
        """Write a config into the launchpad."""
        self.page.locator(".CodeMirror:visible").last.click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(config)

    def dialog(self) -> Locator:
        """The dialog that asks for partitions."""
        found = self.page.locator(".bp5-dialog:has-text('Partition selection')").first
        found.wait_for()
        return found

    def choose_partition(self, partition: str) -> None:
        """Choose one partition in the dialog, of those that it offers."""
        self.dialog().get_by_text("Custom", exact=True).click()
        choose_all = self.page.get_by_text("Select all (").filter(visible=True)
        for _ in range(20):  # while the dialog still moves, its list closes at once
            self.settle()
            if choose_all.count():
                break
            self.dialog().get_by_text("partitions selected").click()
        choose_all.click()
        self.page.get_by_text(partition, exact=True).filter(visible=True).last.click()
        self.page.keyboard.press("Escape")

    def show_picture(self, label: str) -> None:
        """Open a picture that stands in the metadata."""
        row = self.page.get_by_role("row").filter(has_text=label).first
        row.get_by_text("Show Markdown").click()
        self.page.locator("img[src^='data:image/png']").first.wait_for()

    def click(self, name: str, *, within: Locator | None = None) -> None:
        """Press a button by what its label begins with; an icon may stand before it."""
        (within or self.page).get_by_role("button", name=name).filter(visible=True).first.click()

    def picture(self, step: str) -> None:
        """Keep what is to be seen now."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.taken.append(PICTURES / f"{self.story}_{len(self.taken) + 1:02d}_{step}.png")
        self.settle()
        self.page.screenshot(path=self.taken[-1], animations="disabled")


@dataclass(frozen=True)
class Visits:
    """Opens the UI in a browser whose profile lies in a directory."""

    server: Server
    profile: Path

    @contextmanager
    def story(self, name: str) -> Iterator[Visit]:
        """Open the browser; a test that fails leaves a last picture."""
        for old in PICTURES.glob(f"{name}_*.png"):
            old.unlink()
        size = ViewportSize(width=1600, height=1000)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch_persistent_context(
                self.profile, executable_path=browser(), args=list(FLAGS), viewport=size
            )
            try:
                page = chromium.pages[0]
                page.set_default_timeout(60_000)
                visit = Visit(page, self.server, name)
                try:
                    yield visit
                except BaseException:
                    visit.picture("where_it_failed")
                    raise
            finally:
                chromium.close()
