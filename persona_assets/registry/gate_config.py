"""The gate's rules for adapter_config.json, and the configuration of our own that takes its place."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from persona_assets.adapter_files import CONFIG_FILE
from persona_assets.registry.gate_cases import GateError, read_object
from persona_assets.registry.gate_listing import MAX_RANK
from persona_assets.study import Recipe

# Every other field of peft 0.21's LoraConfig, with the case that refuses a value which is not empty.
_MUST_BE_EMPTY = {
    "use_dora": "dora",
    "modules_to_save": "modules-to-save",
    "layer_replication": "layer-replication",
    "trainable_token_indices": "token-indices",
    "megatron_config": "megatron",
    "auto_mapping": "auto-mapping",
    **dict.fromkeys(
        (
            "alora_invocation_tokens",
            "alpha_pattern",
            "arrow_config",
            "corda_config",
            "ensure_weight_tying",
            "eva_config",
            "exclude_modules",
            "fan_in_fan_out",
            "kasa_config",
            "layers_pattern",
            "layers_to_transform",
            "loftq_config",
            "lora_bias",
            "lora_ga_config",
            "monteclora_config",
            "rank_pattern",
            "runtime_config",
            "target_parameters",
            "use_bdlora",
            "use_qalora",
            "velora_config",
        ),
        "variant",
    ),
}
_PLAIN = {
    "base_model_name_or_path",
    "bias",
    "inference_mode",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",  # of no effect without use_qalora
    "r",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
KNOWN_FIELDS = frozenset(_PLAIN | set(_MUST_BE_EMPTY))
_LARGEST = 1e6


@dataclass(frozen=True)
class LoraSettings:
    """What is taken over from an adapter's configuration."""

    r: int
    alpha: float
    dropout: float
    use_rslora: bool
    target_modules: tuple[str, ...]

    @property
    def scale(self) -> float:
        """The factor by which the product of the two matrices is added: alpha / sqrt(r) with rank stabilisation."""
        return self.alpha / math.sqrt(self.r) if self.use_rslora else self.alpha / self.r


def expected_settings(recipe: Recipe) -> LoraSettings:
    """Return what an adapter of the profile's recipe has."""
    return LoraSettings(recipe.r, recipe.alpha, recipe.dropout, recipe.use_rslora, tuple(sorted(recipe.target_modules)))


def check_config(path: Path, *, base_names: Collection[str], base_revision: str | None, targets: Collection[str]) -> LoraSettings:
    """Judge adapter_config.json.

    Args:
        path: the file.
        base_names: names that stand for exactly this base model.
        base_revision: its commit; None when it has none.
        targets: modules that an adapter may change.

    Raises:
        GateError: it asks for anything but plain LoRA on exactly this base model.
    """
    config = read_object(path, "config-json")
    unknown = sorted(set(config) - KNOWN_FIELDS)
    if unknown:
        raise _refused("config-key", f"the key {unknown[0]!r} is not one of plain LoRA in peft 0.21")
    if config.get("peft_type") != "LORA":
        raise _refused("peft-type", f"peft_type is {_shown(config.get('peft_type'))}, and only LORA is accepted")
    for name, case in _MUST_BE_EMPTY.items():
        value = config.get(name)
        if not (value is None or value is False or value in ([], {})):
            raise _refused(case, f"{name} is {_shown(value)}, and only plain LoRA is accepted, where it is empty")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise _refused("task-type", f"task_type is {_shown(config.get('task_type'))}, expected CAUSAL_LM")
    if config.get("bias", "none") != "none":
        raise _refused("bias", f"bias is {_shown(config.get('bias'))}, and only none is accepted")
    if config.get("megatron_core") not in (None, "megatron.core"):
        raise _refused("megatron", f"megatron_core is {_shown(config.get('megatron_core'))}, which peft would import")
    initialisation = config.get("init_lora_weights")
    if initialisation not in (None, "gaussian") and not isinstance(initialisation, bool):
        raise _refused("initialisation", f"init_lora_weights is {_shown(initialisation)}, which changes base weights")
    _check_base(config, base_names, base_revision)
    return LoraSettings(
        r=_rank(config),
        alpha=_alpha(config),
        dropout=_dropout(config),
        use_rslora=_flag(config, "use_rslora"),
        target_modules=_targets(config, targets),
    )


def write_config(settings: LoraSettings, base_name: str, path: Path) -> None:
    """Write the configuration that stands beside pulled weights: the allowed fields, and nothing of the original file."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": settings.r,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.use_rslora,
        "target_modules": list(settings.target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def recipe_differences(found: LoraSettings, expected: LoraSettings) -> dict[str, list[object]]:
    """Say where an adapter's settings differ from the recipe's: found and expected, by name."""
    pairs = {name: (getattr(found, name), getattr(expected, name)) for name in ("r", "alpha", "dropout", "use_rslora")}
    differing: dict[str, list[object]] = {name: [*pair] for name, pair in pairs.items() if pair[0] != pair[1]}
    if found.target_modules != expected.target_modules:
        differing["target_modules"] = [list(found.target_modules), list(expected.target_modules)]
    return differing


def _check_base(config: Mapping[str, object], names: Collection[str], revision: str | None) -> None:
    name = config.get("base_model_name_or_path")
    if name not in names:
        raise _refused(
            "base-name", f"it was made for the base model {_shown(name)}, and the one here is {' or '.join(sorted(names))}"
        )
    given = config.get("revision")
    # `main` pins nothing: it says as little as null.
    if given not in (None, "main") and (revision is None or given != revision):
        raise _refused("base-revision", f"it was made for the revision {_shown(given)} of the base model, here is {revision}")


def _rank(config: Mapping[str, object]) -> int:
    rank = config.get("r")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise _refused("rank", f"r is {_shown(rank)}, expected a whole number from 1 to {MAX_RANK}")
    return rank


def _alpha(config: Mapping[str, object]) -> float:
    alpha = _finite(config, "lora_alpha", None)
    if alpha <= 0:
        raise _refused("numbers", f"lora_alpha is {_shown(alpha)}, expected a positive number")
    return alpha


def _dropout(config: Mapping[str, object]) -> float:
    dropout = _finite(config, "lora_dropout", 0.0)
    if not 0 <= dropout < 1:
        raise _refused("numbers", f"lora_dropout is {_shown(dropout)}, expected a number from 0 to below 1")
    return dropout


def _finite(config: Mapping[str, object], name: str, absent: float | None) -> float:
    value = config.get(name, absent)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > _LARGEST:
        raise _refused("numbers", f"{name} is {_shown(value)}, expected a finite number")
    return value


def _flag(config: Mapping[str, object], name: str) -> bool:
    value = config.get(name, False)
    if not isinstance(value, bool):
        raise _refused("numbers", f"{name} is {_shown(value)}, expected true or false")
    return value


def _targets(config: Mapping[str, object], expected: Collection[str]) -> tuple[str, ...]:
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise _refused("target-form", f"target_modules is {_shown(targets)}, expected a list of names")
    other = sorted(set(targets) - set(expected))
    if other or len(set(targets)) != len(targets):
        what = f"names {_shown(other[0])}" if other else "names a module twice"
        raise _refused("target-names", f"target_modules {what}; the recipe trains {', '.join(sorted(expected))}")
    return tuple(sorted(targets))


def _refused(case: str, reason: str) -> GateError:
    return GateError(case, CONFIG_FILE, f"{reason}.")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
