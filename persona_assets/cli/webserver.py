"""Dagster's web server with one page more: the lake, so that links in the UI open write-ups, figures and tables.

Run as `python -m persona_assets.cli.webserver`, with the arguments of `dagster-webserver`; `persona-assets ui` does.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster_webserver.app
from dagster_webserver.webserver import DagsterWebserver
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from persona_assets.assets.metadata import LAKE_ROUTE
from resources.lake import Lake

_SHOWN_AS = {".md": "text/plain; charset=utf-8", ".jsonl": "text/plain; charset=utf-8", ".pdf": "application/pdf"}
# A page of the lake may run its own scripts (sorting, the heat map) and nothing else: it has no origin, so no access to Dagster.
_HEADERS = {"Content-Security-Policy": "sandbox allow-scripts allow-popups", "X-Content-Type-Options": "nosniff"}
_LISTING = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{path}</title>
<style>body {{ font: 15px/1.6 system-ui, sans-serif; margin: 2rem; color-scheme: light dark; }}
td {{ padding-right: 2rem; }} td + td {{ text-align: right; }}</style></head>
<body><h1>{path}</h1><table>{rows}</table></body></html>"""


class LakeWebserver(DagsterWebserver[Any, Any]):
    """Serves the Dagster UI, and the lake's files below `/lake/`."""

    def build_routes(self) -> list[Any]:
        """Put the lake before the routes of Dagster, whose last one takes every path."""
        root = Lake().store.root.resolve()

        def lake(request: Request) -> Response:
            return lake_response(root, str(request.path_params["path"]), request.url.path)

        return [Route(f"{self._app_path_prefix}{LAKE_ROUTE}/{{path:path}}", lake), *super().build_routes()]  # type: ignore[no-untyped-call]


def lake_response(root: Path, path: str, shown: str) -> Response:
    """Answer with a file of the lake, or with a list of a directory's files.

    Args:
        root: of the lake, resolved.
        path: below it, as asked for.
        shown: the whole path of the request.

    Raises:
        HTTPException: 404 for what is not there, is hidden or lies outside the lake.
    """
    target = (root / path).resolve()
    hidden = any(part.startswith(".") for part in Path(path).parts)
    if hidden or not target.is_relative_to(root) or not target.exists():
        raise HTTPException(404, f"{path} is not in the lake. It may have been replaced: materialize the asset again.")
    if target.is_file():
        return FileResponse(target, media_type=_SHOWN_AS.get(target.suffix), headers=_HEADERS)
    if not shown.endswith("/"):
        return RedirectResponse(f"{shown}/")
    rows = "".join(_row(entry) for entry in sorted(target.iterdir()) if not entry.name.startswith("."))
    return HTMLResponse(_LISTING.format(path=escape(path.rstrip("/") or "lake"), rows=rows), headers=_HEADERS)


def _row(entry: Path) -> str:
    name = f"{entry.name}/" if entry.is_dir() else entry.name
    size = "" if entry.is_dir() else f"{entry.stat().st_size:,} bytes"
    return f'<tr><td><a href="{quote(name)}">{escape(name)}</a></td><td>{size}</td></tr>'


def main() -> None:
    """Run Dagster's own command line on this web server."""
    dagster_webserver.app.DagsterWebserver = LakeWebserver  # type: ignore[attr-defined]  # no other way to add a route
    from dagster_webserver.cli import main as serve

    serve()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
