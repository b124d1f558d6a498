"""Import an earlier study: read its files, write them into the lake, register them, and write the study file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml

from persona_assets.ancestor.assembly import Assembly, assemble
from persona_assets.ancestor.discovery import CONDITION_FILES
from persona_assets.ancestor.gathering import Centring, Gathered, Line, Options, gather
from persona_assets.ancestor.identity import HERE, PROMPTS, build_identity, read_statements
from persona_assets.ancestor.reading import AncestorError
from persona_assets.catalog import load_catalog
from persona_assets.cli.conditions import conditions_here
from persona_assets.imported import Identity, Imported
from persona_assets.panel import CATEGORIES, Category
from persona_assets.product_files import write_whole
from persona_assets.store import Manifest, Product
from persona_assets.study import AnalysisPlan, Study
from persona_assets.study_file import STUDY_NAME, ImportedStudyFile, read_study_file
from persona_assets.yaml_files import model_from

if TYPE_CHECKING:
    from persona_assets.cli.deployment import Deployment

_HEADER = "# Written by `persona-assets import`. Of this file only `analysis` may be edited; import again for anything else.\n"


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `persona-assets import`."""

    path: Path
    study: str
    statements: tuple[str, ...] = ()
    note: str | None = None
    marker: str | None = None
    prefer: str | None = None
    condition: str | None = None
    seed: int | None = None
    completions: int | None = None
    centring: Centring = "panel"
    categories: tuple[str, ...] = ()
    primary_layers: tuple[int, ...] = ()
    skip_refused: bool = False
    replace: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Outcome:
    """What an import did, or would do.

    Attributes:
        lines: what became of each file.
        imported: the section of the study file; None when the import cannot be made.
        file: the study file.
        written: whether anything was written.
        unchanged: whether the same import was there already.
    """

    lines: tuple[Line, ...]
    imported: Imported | None
    file: Path
    written: bool
    unchanged: bool = False

    @property
    def refused(self) -> tuple[Line, ...]:
        """The lines about what is refused."""
        return tuple(line for line in self.lines if line.told == "refused")

    def as_json(self) -> dict[str, object]:
        """Everything as plain JSON values."""
        return {
            "lines": [vars(line) for line in self.lines],
            "imported": None if self.imported is None else self.imported.model_dump(mode="json"),
            "unknown_conditions": [] if self.imported is None else list(self.imported.unknown_conditions),
            "file": str(self.file),
            "written": self.written,
            "unchanged": self.unchanged,
        }


def import_study(deployment: Deployment, request: Request) -> Outcome:
    """Import an earlier study, or say what an import would do.

    Raises:
        AncestorError: nothing could be read, an option is wrong, or the study exists already.
        ConfigurationError: the study file would not be acceptable.
        LakeError: the lake could not be written.
    """
    file = Path(os.environ["PERSONA_STUDIES"]) / deployment.catalog.profile.name / f"{request.study}.yaml"
    before = _existing(file, request)
    options = _options(deployment, request)
    statements = read_statements(request.statements)
    gathered = gather(request.path, options)
    try:
        assembly = assemble(gathered, options, deployment.catalog.questions, prompts_here=HERE in _said(statements))
        identity, stated = build_identity(assembly.recorded, statements, lambda: conditions_here(deployment.products))
        plan = before.analysis if before is not None else _plan(deployment, request, assembly)
    except AncestorError as error:
        gathered.tell("refused", gathered.root, str(error))
        return Outcome(tuple(gathered.lines), None, file, written=False)
    section = _section(request, options, assembly, identity, stated, data_version="not written yet")
    if request.dry_run or (gathered.refused and not request.skip_refused):
        return Outcome(tuple(gathered.lines), section, file, written=False)
    manifest = _publish(deployment, request, options, gathered, assembly, section)
    section = section.model_copy(update={"data_version": manifest.data_version})
    content = {
        "imported": section.model_dump(mode="json", exclude_none=False),
        "seeds": list(assembly.seeds),
        "analysis": plan.model_dump(mode="json", exclude_defaults=True),
    }
    unchanged = before is not None and before.imported == section and before.seeds == assembly.seeds
    if not unchanged:
        _write_study(file, content, before is not None)
    _register(deployment, request.study)
    return Outcome(tuple(gathered.lines), section, file, written=True, unchanged=unchanged)


def _said(statements: Mapping[str, str]) -> set[str | None]:
    return {statements.get(PROMPTS), statements.get("all")}


def _existing(file: Path, request: Request) -> ImportedStudyFile | None:
    if not re.fullmatch(STUDY_NAME, request.study) or request.study == "profile":
        raise AncestorError(f"--study {request.study!r}: a study's name has lower-case letters, digits and underscores.")
    if not file.exists():
        return None
    found = read_study_file(file)
    if not isinstance(found, ImportedStudyFile):
        raise AncestorError(f"{file} is a study that is measured here; choose another --study for the import.")
    if not request.replace and not request.dry_run:
        raise AncestorError(f"{file} holds an import already, of {found.imported.source}; replace it with --replace.")
    return found


def _options(deployment: Deployment, request: Request) -> Options:
    files = [name.removesuffix(".json") for name in CONDITION_FILES]
    if request.prefer is not None and request.prefer.removesuffix(".json") not in files:
        raise AncestorError(f"--prefer {request.prefer!r}: choose one of {', '.join(files)}.")
    if request.centring not in get_args(Centring):
        raise AncestorError(f"--centring {request.centring!r}: choose one of {', '.join(get_args(Centring))}.")
    categories: dict[str, Category] = {}
    for stated in request.categories:
        persona, _, category = stated.partition("=")
        if category not in CATEGORIES:
            known = ", ".join(CATEGORIES)
            raise AncestorError(f"--category {stated!r}: give persona=category, the category being one of {known}.")
        categories[persona] = category
    return Options(
        panel=deployment.catalog.panel,
        marker=request.marker or deployment.catalog.profile.marker,
        prefer=None if request.prefer is None else f"{request.prefer.removesuffix('.json')}.json",
        condition=request.condition,
        seed=request.seed,
        completions=request.completions,
        centring=request.centring,
        categories=categories,
    )


def _plan(deployment: Deployment, request: Request, assembly: Assembly) -> AnalysisPlan:
    """The plan of the studies measured here, at the primary layers that were stated or recorded."""
    own = next(study.analysis for study in deployment.catalog.studies.values() if study.imported is None)
    if not assembly.layers:
        return own
    recorded = () if assembly.primary_layer is None else (assembly.primary_layer,)
    layers = request.primary_layers or recorded or own.primary_layers
    if missing := [layer for layer in layers if layer not in assembly.layers]:
        raise AncestorError(
            f"Primary layer {missing[0]} was not imported; there are cosines at {', '.join(map(str, assembly.layers))}: "
            "state which to use with --primary-layer."
        )
    return own.model_copy(update={"primary_layers": tuple(layers)})


def _section(
    request: Request, options: Options, assembly: Assembly, identity: Identity, stated: Sequence[str], data_version: str
) -> Imported:
    unknown = [name for name, value in identity.items() if value is None]
    missing = [each.model_dump() for each in assembly.not_supported]
    if unknown:
        why = f"neither recorded nor stated: {', '.join(unknown)}; a drift against this study is confounded"
        missing.append({"what": "measurement identity", "why": why})
    return model_from(
        Imported,
        {
            "source": str(request.path.resolve()),
            "data_version": data_version,
            "marker": options.marker,
            "anchor": options.panel.anchor,
            "personas": assembly.personas,
            "layers": assembly.layers,
            "completions": assembly.completions,
            "identity": identity,
            "stated": tuple(stated),
            "note": request.note,
            "tables": assembly.tables,
            "not_supported": missing,
        },
        "The import",
    )


def _publish(
    deployment: Deployment, request: Request, options: Options, gathered: Gathered, assembly: Assembly, section: Imported
) -> Manifest:
    from persona_assets.ancestor.product import VERSION, check_product, write_product

    products = deployment.products
    product = Product(
        path=products.lake.imported(products.profile, request.study),
        producer="import",
        version=VERSION,
        parameters={
            "study": request.study,
            "files": gathered.files,
            "imported": section.model_dump(mode="json", exclude={"data_version", "source", "note"}),
        },
    )
    there = products.store.current(product)
    if there is not None:
        return there
    products.store.sweep()
    with products.store.staging(product) as staging:
        write_product(assembly, gathered, request.study, options.marker, staging)
        return products.store.publish(
            product,
            staging,
            run_id="persona-assets import",
            facts={"source": section.source, "note": section.note},
            check=lambda directory: check_product(directory, assembly),
        )


def _write_study(file: Path, content: Mapping[str, Any], existed: bool) -> None:
    """Write the study file; one that cannot be loaded is taken back."""
    old = file.read_bytes() if existed else None
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    text = _HEADER + yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120)
    write_whole(file, text.encode(), temporary)
    try:
        load_catalog(file.parent.parent, file.parent.name)
    except BaseException:  # an interrupt, too, must not leave a file that nobody checked
        if old is None:
            file.unlink()
        else:
            write_whole(file, old, temporary)
        raise


def _register(deployment: Deployment, name: str) -> None:
    """Tell the Dagster instance of the import, so that the UI shows it."""
    from dagster import AssetMaterialization
    from dagster._core.definitions.data_version import DATA_VERSION_TAG

    from persona_assets.assets.imports import IMPORTED, import_metadata
    from persona_assets.assets.partitions import study_key

    products = deployment.products
    study = load_study(deployment, name)
    path = products.imported_path(study)
    manifest = products.store.verified(path)
    assert study.imported is not None
    event = AssetMaterialization(
        study_key(products.profile, name, IMPORTED),
        description=f"Imported from {study.imported.source}.",
        metadata=import_metadata(study.imported, manifest, products.store.directory(path)),
        tags={DATA_VERSION_TAG: manifest.data_version},
    )
    with deployment.instance() as instance:
        instance.report_runless_asset_event(event)


def load_study(deployment: Deployment, name: str) -> Study:
    """Load a study whose file was written after the deployment was opened."""
    directory = Path(os.environ["PERSONA_STUDIES"])
    return load_catalog(directory, deployment.catalog.profile.name).study(name)


def print_outcome(outcome: Outcome, request: Request) -> None:
    """Print what became of every file, and what the study can and cannot give."""
    from persona_assets.cli.display import console

    colours = {"imported": "green", "note": "yellow", "skipped": "dim", "refused": "red"}
    for told in ("imported", "skipped", "note", "refused"):
        groups: dict[str, list[str]] = {}
        for line in (line for line in outcome.lines if line.told == told):
            groups.setdefault(line.text, []).append(line.place)
        for text, places in groups.items():
            where = places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"
            console.print(f"[{colours[told]}]{told}[/] ", end="")
            console.print(f"{where}: {text}", markup=False, highlight=False, soft_wrap=True)
    if outcome.imported is None:
        return
    section = outcome.imported

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"\n{len(section.personas)} sources: {', '.join(persona.id for persona in section.personas)}")
    say(f"Supports: {', '.join(section.tables)}")
    for each in section.not_supported:
        say(f"Does not support {each.what}: {each.why}")
    say(f"Measurement identity: {section.identity_sentence}")
    if outcome.refused and not outcome.written:
        say(f"\n{len(outcome.refused)} refused, nothing was written. Put it right, or import the rest with --skip-refused.")
    elif request.dry_run:
        say("\nA dry run: nothing was written.")
    else:
        say(f"\n{'The same import was there already' if outcome.unchanged else 'Written'}: {outcome.file}")
        name = request.study
        say(f"Next: `persona-assets run {name}` computes its tables and write-up; `parent: {name}` in a study's file makes it")
        say("the parent of one measured here. In the UI, reload the code location.")
