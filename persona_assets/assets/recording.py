"""Record each partition as it finishes, exactly once, with the digest of its content as data version.

Dagster writes one materialization for every key of a range run when its step ends, all with one data
version. Here each key is logged the moment its product is in the lake, with its own data version and the
provenance that Dagster's staleness marks need; the event at the end is suppressed, so there is one per key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import AssetExecutionContext, AssetMaterialization, DataVersion, Failure, MetadataValue, Nothing, Output
from dagster._core.execution.plan.execute_step import (  # the tags Dagster itself would write
    _build_data_version_tags,
    _get_input_provenance_data,
)
from dagster._core.storage.tags import EXTERNALLY_MANAGED_ASSETS_TAG
from dagster._utils.warnings import disable_dagster_warnings

from persona_assets.errors import LakeError, PersonaAssetsError
from persona_assets.explaining import explain
from persona_assets.progress import Progress
from persona_assets.store import Manifest, Product, Store
from persona_assets.workers import Outcome, WorkerPool

NOTHING: Any = Nothing
"""The type of outputs that no IO manager sees; untyped because Dagster's own annotation does not admit it."""

Metadata = Mapping[str, MetadataValue | str | int | float | bool | Path]


def missing_input_message(store: Store, product: Product) -> str | None:
    """Say which inputs of a product are not in the lake and what to do; None when all are."""
    missing = store.missing_inputs(product)
    if not missing:
        return None
    more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
    return f"{product.path} needs {', '.join(missing[:4])}{more}: not in the lake yet. Materialize the upstream assets first."


def materialize_keys(
    context: AssetExecutionContext,
    store: Store,
    products: Mapping[str, Product],
    produce: Callable[[Mapping[str, Path]], Iterator[Outcome[Mapping[str, object]]]],
    *,
    describe: Callable[[str, Manifest, Path], Metadata],
    check: Callable[[str], Callable[[Path], None]] | None = None,
    replace: bool = True,
    stage: str | None = None,
    made: Callable[[str, Manifest, Path], object] | None = None,
    whole: bool = False,
    recorded: Callable[[str], None] | None = None,
    again: Callable[[str], bool] | None = None,
) -> Iterator[Output[None]]:
    """Bring the products of a run's keys up to date and record each as it finishes.

    Args:
        context: the asset's context; its keys are those of `products`.
        store: where the products live.
        products: product by partition key, in panel order.
        produce: given a staging directory by key, fills them and yields outcomes as they arrive; an outcome's
            result holds the facts to keep in the manifest.
        describe: metadata of a key's materialization.
        check: gives the function that reads a key's content back before it is published.
        replace: False for products that are never overwritten.
        stage: name in the progress lines; the asset's last key part by default.
        made: told of each product that was made, and not of those that were skipped, once it is recorded.
        whole: make products again whose files were evicted.
        recorded: called with each key that is recorded.
        again: says whether a key's product is made again although it is current.

    Yields:
        The step's output, once every key is recorded.

    Raises:
        Failure: at the end, naming the keys that failed; those that did not are recorded.
    """
    stage = stage or context.asset_key.path[-1]
    progress = Progress(stage, len(products), say=context.log.info)
    progress.start()
    store.sweep()
    done = recorded or (lambda key: None)
    failed: dict[str, str] = {}
    todo: dict[str, Product] = {}
    for key, product in products.items():
        blocked = missing_input_message(store, product)
        manifest = None if blocked or (again is not None and again(key)) else store.current(product, whole=whole)
        if blocked:
            failed[key] = blocked
            progress.finished(key, "cannot start")
        elif manifest is not None:
            _record(context, key, manifest, describe(key, manifest, store.directory(product.path)), skipped=True)
            done(key)
            progress.skipped(key)
        else:
            fault = store.fault(product.path)
            if fault:
                context.log.warning(f"{product.path}: {fault}; it is made again.")
            todo[key] = product
    if todo:
        with said_in_words(stage, store.root):
            staging = {key: store.new_staging(product) for key, product in todo.items()}
        try:
            for outcome in produce(staging):
                key, product = outcome.key, todo[outcome.key]
                if outcome.error is None:
                    try:
                        manifest = store.publish(
                            product,
                            staging[key],
                            run_id=context.run_id,
                            facts=outcome.result,
                            check=None if check is None else check(key),
                            replace=replace,
                        )
                    except (LakeError, ValueError, OSError) as error:
                        failed[key] = explain(error, store.directory(product.path)) if isinstance(error, OSError) else str(error)
                    else:
                        _record(context, key, manifest, describe(key, manifest, store.directory(product.path)), skipped=False)
                        done(key)
                        progress.finished(key)
                        if made is not None:
                            made(key, manifest, store.directory(product.path))
                else:
                    failed[key] = outcome.error
                if key in failed:
                    context.log.error(f"{stage} {key}: {failed[key]}" + (f"\n{outcome.trace}" if outcome.trace else ""))
                    progress.finished(key, "FAILED")
        finally:
            store.discard(staging.values())
    if failed:
        raise Failure(
            description=_failure_text(stage, failed, len(products)),
            metadata={"failed": MetadataValue.json(failed), "recorded": len(products) - len(failed)},
            allow_retries=True,
        )
    with _events_are_ours(context):
        yield Output(None)


def here(work: Callable[[Path], Mapping[str, object]]) -> Callable[[Path], Iterator[Outcome[Mapping[str, object]]]]:
    """Turn a function of this process, which fills a directory and returns facts, into what `materialize_one` calls."""
    return lambda staging: WorkerPool(0).run(work, {"": staging})


def materialize_one(
    context: AssetExecutionContext,
    store: Store,
    product: Product,
    produce: Callable[[Path], Iterator[Outcome[Mapping[str, object]]]],
    *,
    describe: Callable[[Manifest, Path], Metadata],
    check: Callable[[Path], None] | None = None,
    skip: bool = True,
) -> Iterator[Output[None]]:
    """Bring the one product of an unpartitioned asset up to date and record it.

    Args:
        context: the asset's context.
        store: where the product lives.
        product: what it is made from.
        produce: fills a staging directory.
        describe: metadata of the materialization.
        check: reads the content back before it is published.
        skip: False makes it again although nothing changed, because it says something of what lies elsewhere.

    Raises:
        Failure: it could not be made; the message says why.
    """
    stage = context.asset_key.path[-1]
    progress = Progress(stage, 1, say=context.log.info)
    progress.start()
    store.sweep()
    blocked = missing_input_message(store, product)
    if blocked:
        raise Failure(blocked)
    manifest = store.current(product) if skip else None
    skipped = manifest is not None
    if manifest is None:
        with said_in_words(stage, store.root), store.staging(product) as staging:
            (outcome,) = produce(staging)
            if outcome.error is not None:
                context.log.error(outcome.trace or outcome.error)
                raise Failure(f"{stage}: {outcome.error}")
            manifest = store.publish(product, staging, run_id=context.run_id, facts=outcome.result, check=check)
    metadata = describe(manifest, store.directory(product.path))
    progress.skipped(stage) if skipped else progress.finished(stage)
    yield Output(
        None,
        data_version=DataVersion(manifest.data_version),
        metadata={**metadata, "skipped": skipped},
    )


@contextmanager
def said_in_words(stage: str, place: Path | None = None) -> Iterator[None]:
    """Turn an error that a user can do something about into a failure whose text is all that has to be read."""
    try:
        yield
    except (PersonaAssetsError, OSError) as error:
        raise Failure(f"{stage}: {explain(error, place)}") from error


def data_version_tags(context: AssetExecutionContext, manifest: Manifest) -> dict[str, str]:
    """Return the tags that make a logged materialization carry its data version and provenance."""
    step = context.get_step_execution_context()
    code_version = context.assets_def.code_versions_by_key.get(context.asset_key) or manifest.version
    provenance = _get_input_provenance_data(context.asset_key, step)
    return _build_data_version_tags(DataVersion(manifest.data_version), code_version, provenance, True)


def partition_keys(context: AssetExecutionContext, order: Sequence[str]) -> list[str]:
    """Return the keys of a run, in panel order."""
    wanted = set(context.partition_keys)
    return [key for key in order if key in wanted]


def _record(context: AssetExecutionContext, key: str, manifest: Manifest, metadata: Metadata, *, skipped: bool) -> None:
    with disable_dagster_warnings():
        event = AssetMaterialization(
            asset_key=context.asset_key,
            partition=key,
            description="Unchanged: made before from the same inputs." if skipped else None,
            metadata={**metadata, "skipped": skipped},
            tags=data_version_tags(context, manifest),
        )
    context.log_event(event)


def _failure_text(stage: str, failed: Mapping[str, str], total: int) -> str:
    others = "; the others are recorded and stay" if len(failed) < total else ""
    lines = [f"{stage}: {len(failed)} of {total} failed ({', '.join(failed)}){others}."]
    shown = list(failed.items())[:5]
    lines += [f"- {error if error.startswith(f'{key}: ') else f'{key}: {error}'}" for key, error in shown]
    if len(failed) > len(shown):
        lines.append(f"- ... and {len(failed) - len(shown)} more, in the metadata of this failure.")
    lines.append("Run the failed partitions again: what was done is skipped.")
    return "\n".join(lines)


@contextmanager
def _events_are_ours(context: AssetExecutionContext) -> Iterator[None]:
    """Keep Dagster from writing its own materializations for the output yielded inside."""
    tags = context.run.tags
    assert isinstance(tags, dict)  # Dagster types it as a read-only mapping
    before = tags.get(EXTERNALLY_MANAGED_ASSETS_TAG)
    tags[EXTERNALLY_MANAGED_ASSETS_TAG] = "true"
    try:
        yield
    finally:
        if before is None:
            del tags[EXTERNALLY_MANAGED_ASSETS_TAG]
        else:
            tags[EXTERNALLY_MANAGED_ASSETS_TAG] = before
