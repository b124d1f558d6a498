"""Bring an adapter: train it here, or pull it from a registry past the gate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from persona_assets.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from persona_assets.errors import PersonaAssetsError
from persona_assets.hashing import sha256_file
from persona_assets.registry.base import Resolved
from persona_assets.registry.gate_cases import GateError
from persona_assets.registry.opening import RegistrySettings, open_registry
from persona_assets.registry.reference import AdapterReference
from persona_assets.store import Manifest
from persona_assets.study import Recipe
from persona_assets.tasks.base_model import CHECKPOINT, REFERENCE_FILE, base_checkpoint
from persona_assets.tasks.loaded import Facts
from persona_assets.tasks.models import ADAPTER, AdapterTask, make_adapter

REGISTRY = "registry"
REMARKS = "remarks"
"""Fact that holds sentences for the run's log."""


class AdapterRefusedError(PersonaAssetsError):
    """An adapter of others did not pass the gate; the message says where it lies and what to do."""


@dataclass(frozen=True)
class PullTask:
    """Pull one source persona's adapter.

    Attributes:
        out_dir: staging directory of the product.
        base_dir: product of the base model.
        base_name: its place in the lake.
        base: its manifest.
        reference: what to pull.
        settings: where registries are.
        recipe: what it is expected to be trained by.
        persona: whose adapter.
        seed: its training seed.
        before: manifest of the adapter that is there now, None when there is none.
    """

    out_dir: Path
    base_dir: Path
    base_name: str
    base: Manifest = field(hash=False)
    reference: AdapterReference
    settings: RegistrySettings
    recipe: Recipe
    persona: str
    seed: int
    before: Manifest | None = field(hash=False)


def bring_adapter(task: AdapterTask | PullTask) -> Facts:
    """Train or pull, whichever the task says."""
    return pull_adapter(task) if isinstance(task, PullTask) else make_adapter(task)


def pull_adapter(task: PullTask) -> Facts:
    """Write what peft loads; the facts keep the resolved version, the digests and what is known of the training.

    Raises:
        AdapterRefusedError: it did not pass the gate.
        RegistryError: it could not be fetched.
    """
    from persona_assets.registry.gate import admit, gate_base

    base = gate_base(
        base_checkpoint(task.base_dir),
        task.base_dir / CHECKPOINT,
        recipe=task.recipe,
        name=task.base_name,
        hub=_hub_reference(task.base_dir),
        digest=task.base.data_version,
        template_digest=str(task.base.facts["chat_template_digest"]),
    )
    with open_registry(task.reference.scheme, task.settings) as registry:
        resolved = registry.resolve(task.reference)
        try:
            known = admit(
                registry, resolved, task.out_dir / ADAPTER, base=base, recipe=task.recipe, persona=task.persona, seed=task.seed
            )
        except GateError as error:
            raise AdapterRefusedError(
                f"{error} It lies at {resolved.pinned}. Correct it there, or take {task.persona} out of inherited_adapters in "
                "the study file: its adapter is then trained here."
            ) from error
    return {
        "origin": REGISTRY,
        "reference": str(task.reference),
        "resolved": str(resolved.pinned),
        "registry_version": resolved.version,
        "registry_digest": resolved.digest,
        **known,
        REMARKS: [*_against_before(task, resolved), *_remarks(task.reference, resolved, known)],
    }


def remarks(facts: Facts | None) -> list[str]:
    """Return the sentences about a product that belong in the run's log."""
    said = (facts or {}).get(REMARKS, [])
    assert isinstance(said, list)
    return said


def _hub_reference(base_dir: Path) -> tuple[str, str] | None:
    file = base_dir / REFERENCE_FILE
    if not file.is_file():
        return None
    reference = json.loads(file.read_text(encoding="utf-8"))
    return reference["repo_id"], reference["commit"]


def _against_before(task: PullTask, resolved: Resolved) -> list[str]:
    """Compare with the adapter that was pulled by the same reference before: the digest decides whether it is the same."""
    before = task.before
    if before is None or before.facts.get("reference") != str(task.reference):
        return []
    names = (CONFIG_FILE, WEIGHTS_FILE)
    old = {name: str(before.files[f"{ADAPTER}/{name}"]["sha256"]) for name in names}
    new = {name: sha256_file(task.out_dir / ADAPTER / name) for name in names}
    earlier = before.facts.get("registry_version")
    if old != new:
        changed = next(name for name in (WEIGHTS_FILE, CONFIG_FILE) if old[name] != new[name])
        return [
            f"Retrained under the same name: {task.reference} was version {earlier} and is now {resolved.version}; the sha256 of "
            f"{changed} was {old[changed][:16]}... and is {new[changed][:16]}.... The digest decides: it is a new adapter, and "
            "its cells are measured anew."
        ]
    if earlier != resolved.version:
        return [f"{task.reference} moved from version {earlier} to {resolved.version}; the adapter is the same to the byte."]
    return []


def _remarks(reference: AdapterReference, resolved: Resolved, known: Mapping[str, object]) -> list[str]:
    said = []
    if reference != resolved.pinned and not reference.pinned:
        said.append(f"{reference} moves; what was pulled is pinned as {resolved.pinned}.")
    differences = known["recipe_differences"]
    assert isinstance(differences, Mapping)
    if differences:
        listed = ", ".join(f"{name} {found} instead of {expected}" for name, (found, expected) in differences.items())
        said.append(
            f"The adapter differs from the profile's recipe: {listed}. Its effective scale is {known['effective_scale']:.4g}, "
            f"the recipe's {known['expected_scale']:.4g}."
        )
    if known["same_chat_template"] is False:
        said.append("It came with another chat template than the base model's, which is the one used here.")
    if known["negatives"] is None:
        said.append("Its trained negatives are not known, so its bystander cells are neither trained negatives nor unseen.")
    return said
