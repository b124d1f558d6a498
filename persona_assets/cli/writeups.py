"""Find and lint write-ups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from persona_assets.errors import PersonaAssetsError

if TYPE_CHECKING:
    from persona_assets.cli.deployment import Deployment
    from persona_assets.reporting.lint import Finding
    from persona_assets.study import Study


class ReportError(PersonaAssetsError):
    """There is no write-up, or a file is not one."""


@dataclass(frozen=True)
class FoundReport:
    """A write-up in the lake.

    Attributes:
        headline: its title.
        markdown: the Markdown file.
        page: the self-contained page.
        overview: the page that sums the study up; None while it was not made.
        stale: whether something it was made from has changed since.
    """

    headline: str
    markdown: Path
    page: Path
    overview: Path | None
    stale: bool


def find_report(deployment: Deployment, study: Study) -> FoundReport:
    """Find the write-up of a study.

    Raises:
        ReportError: it has not been written yet.
        LakeError: its files are damaged.
    """
    from persona_assets.reporting.writeup import MARKDOWN_FILE, PAGE_FILE
    from persona_assets.reporting.writeup.overview import OVERVIEW_FILE

    products = deployment.products
    product = products.clean_result(study)
    if products.store.manifest(product.path) is None:
        raise ReportError(f"{study.name} has no write-up yet: run `persona-assets run {study.name}` first.")
    manifest = products.store.verified(product.path)
    directory = products.store.directory(product.path)
    stale = products.store.state(product) == "stale"
    overview = products.overview(study).path
    return FoundReport(
        headline=str(manifest.facts["headline"]),
        markdown=directory / MARKDOWN_FILE,
        page=directory / PAGE_FILE,
        overview=None if products.store.manifest(overview) is None else products.store.directory(overview) / OVERVIEW_FILE,
        stale=stale,
    )


def lint_file(file: Path) -> list[Finding]:
    """Lint a write-up against the tables of the study that its first line names.

    Raises:
        ReportError: the file cannot be read, or does not say which study it is about.
        LakeError: something of the study is missing in the lake.
    """
    from persona_assets.assets.writeups import writeup_sources
    from persona_assets.cli.deployment import open_deployment
    from persona_assets.reporting.lint import lint
    from persona_assets.reporting.writeup.report import HEADER
    from resources.lake import Lake
    from resources.warehouse import Warehouse

    try:
        with file.open(encoding="utf-8", newline="") as opened:
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ReportError(f"{file} cannot be read: {error}") from error
    header = HEADER.search(text)
    parts = header["asset"].split("/") if header else []
    if len(parts) != 3:
        raise ReportError(
            f"{file} does not say which study it is about: its first line must be the comment that `clean_result` writes there."
        )
    deployment = open_deployment(parts[0])
    study = deployment.catalog.study(parts[1])
    return lint(text, writeup_sources(study, deployment.products, Warehouse(lake=Lake())))
