"""The gate: everything an adapter of others must pass before anything of it reaches peft or the lake.

It looks at the registry's listing before a byte is fetched, at the configuration before the weights are, and at the
weights without any library that could be taken in by them. What passes is written anew: the weights as they are, beside
a configuration of our own. `gate_cases.CASES` lists every refusal.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from persona_assets.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from persona_assets.hashing import sha256_file
from persona_assets.registry.base import Registry, Resolved
from persona_assets.registry.gate_companions import (
    check_declared,
    check_facts,
    check_tokenizer,
    known_negatives,
    same_template,
    training_facts,
)
from persona_assets.registry.gate_config import (
    check_config,
    expected_settings,
    recipe_differences,
    write_config,
)
from persona_assets.registry.gate_listing import check_arrived, check_listing
from persona_assets.registry.gate_weights import (
    Linears,
    base_linears,
    check_weights,
    check_weights_size,
    needed_tensors,
    weights_cap,
)
from persona_assets.study import Recipe


@dataclass(frozen=True)
class GateBase:
    """The base model as the gate compares with it.

    Attributes:
        name: what our own configuration calls it.
        names: every name by which an adapter may call exactly this base model.
        revision: its commit, None when it has none.
        digest: data version of the product.
        linears: its linear layers.
        tokenizers: its tokenizer.json, in every form there is.
        template_digest: sha256 of its chat template.
    """

    name: str
    names: Collection[str]
    revision: str | None
    digest: str
    linears: Linears
    tokenizers: tuple[Path, ...]
    template_digest: str


def gate_base(
    checkpoint: Path, kept: Path, *, recipe: Recipe, name: str, hub: tuple[str, str] | None, digest: str, template_digest: str
) -> GateBase:
    """Read what the gate compares with off the base model.

    Args:
        checkpoint: directory of the weights.
        kept: directory in the lake that holds the tokenizer.
        recipe: whose modules an adapter may change.
        name: the base model's place in the lake.
        hub: repository and commit of a base model on the Hub.
        digest: data version of the product.
        template_digest: sha256 of its chat template.
    """
    files = {path.resolve() for path in (checkpoint / "tokenizer.json", kept / "tokenizer.json") if path.is_file()}
    return GateBase(
        name=name,
        names=frozenset({name} if hub is None else {name, hub[0]}),
        revision=None if hub is None else hub[1],
        digest=digest,
        linears=base_linears(checkpoint, recipe.target_modules),
        tokenizers=tuple(sorted(files)),
        template_digest=template_digest,
    )


def admit(
    registry: Registry, resolved: Resolved, into: Path, *, base: GateBase, recipe: Recipe, persona: str, seed: int
) -> dict[str, object]:
    """Fetch an adapter past the gate, and write what peft loads.

    Args:
        registry: where it is.
        resolved: what to fetch.
        into: directory to create; it does not exist unless everything passed.
        base: the base model.
        recipe: what the adapter is expected to be trained by; its modules are a rule, the rest is compared and told.
        persona: whose adapter was asked for.
        seed: training seed that was asked for.

    Returns:
        What is known of the adapter, as plain JSON values: digests of the fetched files, the effective scale beside the
        expected one, where its settings differ from the recipe, what came with it about its training, and its trained
        negatives (None: not known).

    Raises:
        GateError: it is refused; nothing of it is kept.
        RegistryError: it could not be fetched as listed.
    """
    wanted = check_listing(registry.listing(resolved), weights_cap(base.linears))
    with tempfile.TemporaryDirectory(prefix="persona-adapter-") as temporary:
        small, heavy = Path(temporary, "small"), Path(temporary, "weights")
        small.mkdir()
        registry.fetch(resolved, wanted.small, small)
        check_arrived(small, wanted.small)
        settings = check_config(
            small / CONFIG_FILE, base_names=base.names, base_revision=base.revision, targets=recipe.target_modules
        )
        needed = needed_tensors(base.linears, settings)
        assert wanted.weights.size is not None
        check_weights_size(wanted.weights.size, needed)
        check_tokenizer(small, base.tokenizers)
        training = training_facts(small)
        check_facts(training, persona=persona, seed=seed, base_names=base.names, base_digest=base.digest)
        heavy.mkdir()
        registry.fetch(resolved, [wanted.weights], heavy)
        check_arrived(heavy, [wanted.weights])
        for declared in (training.get("facts"), resolved.metadata):
            digests = declared.get("sha256") if isinstance(declared, Mapping) else None
            check_declared(heavy, digests, [WEIGHTS_FILE])
            check_declared(small, digests, [file.name for file in wanted.small])
        check_weights(heavy / WEIGHTS_FILE, needed)
        sha256 = {path.name: sha256_file(path) for path in sorted((*small.iterdir(), *heavy.iterdir()))}
        into.mkdir()
        write_config(settings, base.name, into / CONFIG_FILE)
        shutil.move(heavy / WEIGHTS_FILE, into / WEIGHTS_FILE)
        template = same_template(small, base.template_digest)
    expected = expected_settings(recipe)
    return {
        "fetched_sha256": sha256,
        "effective_scale": settings.scale,
        "expected_scale": expected.scale,
        "recipe_differences": recipe_differences(settings, expected),
        "same_chat_template": template,
        "training": {**training, "registry_metadata": dict(resolved.metadata)},
        "negatives": known_negatives(training, resolved.metadata),
    }
