"""The lake beside the Dagster UI: what is served, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from persona_assets.cli.webserver import lake_response


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lake = tmp_path / "lake"
    (lake / "embedded" / "n12" / "overview").mkdir(parents=True)
    (lake / "embedded" / ".staging-host-1-x").mkdir()
    (lake / "embedded" / ".staging-host-1-x" / "half.html").write_text("half", encoding="utf-8")
    (lake / "embedded" / "n12" / "overview" / "overview.html").write_text("<h1>It</h1>", encoding="utf-8")
    (lake / "embedded" / "n12" / "overview" / "a & b.md").write_text("# It\n", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("no", encoding="utf-8")
    (lake / "embedded" / "out").symlink_to(tmp_path)
    return lake


@pytest.fixture
def client(root: Path) -> TestClient:
    route = Route("/lake/{path:path}", lambda request: lake_response(root, request.path_params["path"], request.url.path))
    return TestClient(Starlette(routes=[route]))


def test_a_page_is_served_without_access_to_dagster(client: TestClient) -> None:
    answer = client.get("/lake/embedded/n12/overview/overview.html")
    assert (answer.status_code, answer.text) == (200, "<h1>It</h1>")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts allow-popups"  # no allow-same-origin


def test_a_directory_lists_its_files(client: TestClient) -> None:
    answer = client.get("/lake/embedded/n12/overview")
    assert answer.url.path == "/lake/embedded/n12/overview/"  # so that its links are relative to it
    assert '<a href="overview.html">overview.html</a>' in answer.text
    assert '<a href="a%20%26%20b.md">a &amp; b.md</a>' in answer.text
    assert client.get("/lake/embedded/n12/overview/a%20%26%20b.md").headers["content-type"] == "text/plain; charset=utf-8"
    assert ".staging" not in client.get("/lake/embedded/").text


@pytest.mark.parametrize(
    "path",
    [
        "embedded/n13/",
        "..%2Fsecret.txt",
        "embedded/%2e%2e/%2e%2e/secret.txt",
        "embedded/out/secret.txt",
        "embedded/.staging-host-1-x/half.html",
        "%2Fetc%2Fpasswd",
    ],
)
def test_what_is_hidden_or_elsewhere_is_not_served(client: TestClient, path: str) -> None:
    answer = client.get(f"/lake/{path}")
    assert answer.status_code == 404
    assert answer.text != "no"
