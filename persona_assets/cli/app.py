"""The command `persona-assets`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from persona_assets.errors import PersonaAssetsError

app = typer.Typer(
    help="Run marker-leakage studies of personas, see where they stand, and query what they found.",
    epilog=(
        "Exit codes: 0 done; 1 it could not be done (the message says what to do), or a check found something; "
        "2 the command was written wrongly. `--install-completion` sets up the shell's completion."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _examples(*commands: str) -> str:
    """What stands below the help of a command; each example is a paragraph, so that it keeps a line of its own."""
    return "\n\n".join(("Examples:", *commands))


def _complete_study(incomplete: str) -> list[str]:
    from persona_assets.cli.completion import study_names

    return study_names(incomplete)


def _complete_profile(incomplete: str) -> list[str]:
    from persona_assets.cli.completion import profiles

    return profiles(incomplete)


Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        envvar="PERSONA_PROFILE",
        help="Profile: a directory under studies/.",
        autocompletion=_complete_profile,
    ),
]
StudyName = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Name of a study of the profile, for example n12.", autocompletion=_complete_study),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.command(epilog=_examples("persona-assets run n24", "persona-assets run n24 --json > n24.json"))
def run(
    study: StudyName,
    profile: Profile = "embedded",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress goes to the error output.")] = False,
) -> None:
    """Run a study to its last asset.

    What was made before from the same inputs is skipped. What is done stays when a run is interrupted: run it again.

    A study whose parent has not been run runs the parent first: it inherits the adapters, and compares with the rates.
    """
    from persona_assets.cli.deployment import open_deployment
    from persona_assets.cli.display import run_with_display

    deployment = open_deployment(profile)
    run_with_display(deployment, deployment.catalog.study(study), as_json=as_json)


@app.command(epilog=_examples("persona-assets status", "persona-assets status n24 --json"))
def status(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="One study; all of them by default.", autocompletion=_complete_study)
    ] = None,
    profile: Profile = "embedded",
    as_json: AsJson = False,
) -> None:
    """Show, for each study and asset, how many personas are done, missing, failed or stale."""
    from persona_assets.cli.deployment import open_deployment
    from persona_assets.cli.display import print_status
    from persona_assets.cli.standing import study_status

    deployment = open_deployment(profile)
    chosen = list(deployment.catalog.studies.values()) if study is None else [deployment.catalog.study(study)]
    with deployment.instance() as instance:
        rows = [row for each in chosen for row in study_status(deployment, instance, each)]
    if as_json:
        typer.echo(json.dumps([vars(row) for row in rows], indent=1))
    else:
        print_status(rows)


@app.command(
    epilog=_examples(
        'persona-assets sql "SELECT persona, rate FROM n12.source_rates ORDER BY rate DESC"',
        'persona-assets sql "SELECT table_schema, table_name FROM information_schema.tables" --json',
    )
)
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL; one schema per study, for example n12.source_rates.")],
    profile: Profile = "embedded",
    as_json: AsJson = False,
) -> None:
    """Query the published warehouse of a profile, read-only."""
    from persona_assets.cli.deployment import open_deployment
    from persona_assets.cli.display import print_frame
    from persona_assets.cli.querying import query_warehouse

    frame = query_warehouse(open_deployment(profile), query)
    if as_json:
        typer.echo(frame.write_json())
    else:
        print_frame(frame)


@app.command(epilog=_examples("persona-assets report n24", "persona-assets report n24 --json"))
def report(study: StudyName, profile: Profile = "embedded", as_json: AsJson = False) -> None:
    """Say where the overview and the write-up of a study are, and print its headline."""
    from persona_assets.cli.deployment import open_deployment
    from persona_assets.cli.writeups import find_report

    deployment = open_deployment(profile)
    found = find_report(deployment, deployment.catalog.study(study))
    if as_json:
        typer.echo(json.dumps(vars(found), default=str, indent=1, ensure_ascii=False))
        return
    typer.echo(found.headline)
    typer.echo(f"Page:     {found.page}")
    typer.echo(f"Markdown: {found.markdown}")
    if found.overview is not None:
        typer.echo(f"Overview: {found.overview}")
    if found.stale:
        typer.echo(f"Something it was made from has changed since: run `persona-assets run {study}` again.")


@app.command(epilog=_examples("persona-assets lint data_lake/embedded/n24/clean_result/report.md"))
def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Markdown of a write-up, wherever it lies.")],
    as_json: AsJson = False,
) -> None:
    """Check a write-up against the tables of its study; findings are listed by line, and end with exit code 1."""
    from persona_assets.cli.writeups import lint_file

    findings = lint_file(file)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=1, ensure_ascii=False))
    else:
        for finding in findings:
            typer.echo(f"{file}:{finding.line}: {finding.rule}: {finding.what} {finding.advice}")
        if findings:
            typer.echo(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}")
        else:
            typer.echo("Nothing to complain about.")
    if findings:
        raise typer.Exit(1)


@app.command(epilog=_examples("persona-assets ui", "persona-assets ui --profile qwen2.5-7b --port 3001"))
def ui(
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Profile to load; by default those in PERSONA_PROFILES, or embedded.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; anyone who reaches it can start runs.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
) -> None:
    """Serve the Dagster UI with its daemon, and the files of the lake that it links to, until Ctrl-C."""
    from persona_assets.cli.serving import serve_ui

    serve_ui(profile, host, port)


@app.command(
    epilog=_examples(
        "persona-assets estimate n48", "persona-assets estimate n48 --profile qwen2.5-7b --table my-gpu.json --answer-tokens 200"
    )
)
def estimate(
    study: StudyName,
    profile: Profile = "embedded",
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table of benchmarks/throughput.py; by default the repository's.")
    ] = None,
    answer_tokens: Annotated[
        float | None, typer.Option(min=1, help="Mean tokens of an answer; by default as measured, else half the limit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is left to do of a study and its ancestors: GPU time, wall time and disk for each stage, before anything is spent.

    Speeds are those that products in the lake recorded, else those of the throughput table; what was not measured is named.
    """
    from persona_assets.cli.capacity import estimate_values, print_estimate
    from persona_assets.cli.deployment import open_deployment
    from persona_assets.cli.estimating import estimate_study

    deployment = open_deployment(profile)
    found = estimate_study(deployment, deployment.catalog.study(study), table, answer_tokens)
    if as_json:
        typer.echo(json.dumps(estimate_values(study, found), indent=1, ensure_ascii=False))
    else:
        print_estimate(study, found)


@app.command(epilog=_examples("persona-assets doctor", "persona-assets doctor --profile qwen2.5-7b --json"))
def doctor(profile: Profile = "embedded", as_json: AsJson = False) -> None:
    """Look at device, driver, memory, disk, cache, versions and services, and say what to do; a problem ends with exit code 1.

    A warning is something with which a study can still run.
    """
    from persona_assets.capacity.doctor import examine, registry_addresses
    from persona_assets.cli.capacity import print_findings
    from persona_assets.cli.deployment import open_deployment
    from persona_assets.tasks.base_model import hub_cache

    deployment = open_deployment(profile)
    store, products = deployment.products.store, deployment.products
    catalog, cache = deployment.catalog, hub_cache(store.directory(products.base_path))
    findings = examine(catalog.profile, store.root, cache, registry_addresses(catalog.inherited_adapters.values()))
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=1, ensure_ascii=False))
    else:
        print_findings(findings)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command(
    "import",
    epilog=_examples(
        "persona-assets import ~/results/n12 --study earlier --dry-run",
        "persona-assets import ~/results/n12 --study earlier --state all=here",
    ),
)
def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Directory of results of an earlier study, or one file of it.")],
    study: Annotated[str, typer.Option("--study", help="Name of the imported study here.")],
    profile: Profile = "embedded",
    engine: Annotated[str | None, typer.Option(help="State the engine that evaluated it; the files do not say.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="State another condition as NAME=VALUE (repeatable); all=here: everything as this profile measures."),
    ] = None,
    note: Annotated[str | None, typer.Option(help="Remark to keep with the study.")] = None,
    marker: Annotated[str | None, typer.Option(help="Implanted string; by default the profile's.")] = None,
    prefer: Annotated[str | None, typer.Option(help="File to believe: run_result, marker_eval or raw_completions.")] = None,
    condition: Annotated[str | None, typer.Option(help="The one condition to import, such as asst_excluded_medium.")] = None,
    seed: Annotated[int | None, typer.Option(help="The one training seed to import; a whole-study file needs it.")] = None,
    completions: Annotated[int | None, typer.Option(min=1, help="Completions behind each rate of a whole-study file.")] = None,
    centring: Annotated[str, typer.Option(help="Of the cosines in a whole-study file: panel or none.")] = "panel",
    category: Annotated[list[str] | None, typer.Option(help="PERSONA=CATEGORY where the files give none (repeatable).")] = None,
    primary_layer: Annotated[list[int] | None, typer.Option(help="Primary layer of the analysis (repeatable).")] = None,
    skip_refused: Annotated[bool, typer.Option("--skip-refused", help="Import the rest when something is refused.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an import of the same name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be imported and refused; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Import the results of an earlier study, so that a study here can have it as its parent.

    What is refused, and what the data cannot support, is listed with the reason. Nothing is written while anything is refused.
    """
    from persona_assets.cli.deployment import open_deployment
    from persona_assets.cli.importing import Request, import_study, print_outcome

    request = Request(
        path=path,
        study=study,
        statements=(*(state or ()), *([] if engine is None else [f"engine={engine}"])),
        note=note,
        marker=marker,
        prefer=prefer,
        condition=condition,
        seed=seed,
        completions=completions,
        centring=centring,  # type: ignore[arg-type]  # checked with the other options
        categories=tuple(category or ()),
        primary_layers=tuple(primary_layer or ()),
        skip_refused=skip_refused,
        replace=replace,
        dry_run=dry_run,
    )
    outcome = import_study(open_deployment(profile), request)
    if as_json:
        typer.echo(json.dumps(outcome.as_json(), indent=1))
    else:
        print_outcome(outcome, request)
    if outcome.imported is None or (outcome.refused and not skip_refused):
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; errors meant for the user end with their text and exit code 1."""
    try:
        app(prog_name="persona-assets")
    except PersonaAssetsError as error:
        typer.echo(f"persona-assets: {error}", err=True)
        sys.exit(1)
