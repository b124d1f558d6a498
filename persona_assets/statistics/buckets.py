"""The registered outcome bucket and confidence: first match wins, exactly one for every input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from persona_assets.conventions import ALPHA
from persona_assets.statistics.tidy import StatisticsError

Bucket = Literal["H_anti_correlated", "H_consistent", "H_consistent_weak", "H_attenuated", "H_inverted", "H_indeterminate"]
Level = Literal["HIGH", "MODERATE", "LOW"]
NEIGHBOURS = (-2, -1, 1, 2)
_NEIGHBOURS_NEEDED = 3
# One seed says nothing of seed variance, two give it with a single degree of freedom.
SEEDS_FOR_HIGH = 3


@dataclass(frozen=True)
class BucketInputs:
    """What the bucket rule looks at.

    Attributes:
        primary_layers: registered layers.
        rho: Spearman rho by layer; None or absent where not estimable.
        p: raw p by layer.
        p_holm: Holm-adjusted p by layer.
        length_partial_p: p of the length partial at the primary layers.
        gates: at each primary layer whether gates A, B, C hold; a split gate holds when it holds on both splits.
        alpha: level.
        registered_sign: -1 or 1.
    """

    primary_layers: tuple[int, ...]
    rho: Mapping[int, float | None]
    p: Mapping[int, float | None]
    p_holm: Mapping[int, float | None]
    length_partial_p: Mapping[int, float | None]
    gates: Mapping[int, tuple[bool, bool, bool]]
    alpha: float = ALPHA
    registered_sign: int = -1

    def __post_init__(self) -> None:
        """Check what makes the rule meaningful.

        Raises:
            StatisticsError: no primary layer, or a sign that is neither -1 nor 1.
        """
        if not self.primary_layers:
            raise StatisticsError("bucket: the plan names no primary layer.")
        if self.registered_sign not in (-1, 1):
            raise StatisticsError(f"bucket: registered_sign is {self.registered_sign}, expected -1 or 1.")


@dataclass(frozen=True)
class Outcome:
    """A bucket and every condition that was met, in order of the rule."""

    bucket: Bucket
    conditions: tuple[str, ...]


@dataclass(frozen=True)
class Confidence:
    """A confidence level and the reasons for it."""

    level: Level
    reasons: tuple[str, ...]


def bucket(inputs: BucketInputs) -> Outcome:
    """Put a study into the first bucket whose rule it meets.

    1. `H_anti_correlated`: at a primary layer rho has the sign opposite to the registered one, and it is
       Holm-significant there or at least 3 of the 4 neighbouring layers have that sign as well.
    2. `H_consistent`: gates A, B and C hold at one primary layer.
    3. `H_consistent_weak`: exactly two of them hold at a primary layer.
    4. `H_attenuated`: raw-significant at a primary layer, no layer Holm-significant, and the length partial not
       significant there; one that cannot be estimated is not known to be insignificant.
    5. `H_inverted`: not raw-significant at any primary layer and no layer Holm-significant. A study none of whose
       primary layers could be measured shows nothing of the kind and is indeterminate.
    6. `H_indeterminate`: anything else.
    """
    conditions = _conditions(inputs)

    def outcome(name: Bucket) -> Outcome:
        return Outcome(name, conditions)

    primary = inputs.primary_layers
    if any(_anti_correlated(inputs, layer) for layer in primary):
        return outcome("H_anti_correlated")
    held = [sum(inputs.gates.get(layer, (False, False, False))) for layer in primary]
    if 3 in held:
        return outcome("H_consistent")
    if 2 in held:
        return outcome("H_consistent_weak")
    any_holm = any(_below(p, inputs.alpha) for p in inputs.p_holm.values())
    raw = [layer for layer in primary if _below(inputs.p.get(layer), inputs.alpha)]
    if not any_holm and any(_not_below(inputs.length_partial_p.get(layer), inputs.alpha) for layer in raw):
        return outcome("H_attenuated")
    measured = [layer for layer in primary if inputs.p.get(layer) is not None]
    if not any_holm and not raw and measured:
        return outcome("H_inverted")
    return outcome("H_indeterminate")


def confidence(
    outcome: Outcome,
    *,
    signed_bucket: Bucket,
    n_seeds: int,
    drift_triggered: bool | None,
    drift_confounded: bool = False,
    drifted_since: Sequence[str] = (),
    truncation_flagged: int = 0,
    truncation_unknown: int = 0,
) -> Confidence:
    """Say how far the outcome can be trusted.

    LOW is registered: the drift trigger fires, the bucket is not `H_consistent`, or only one seed was trained. Among
    the rest, MODERATE when anything speaks against HIGH: drift that was not tested, or only across measurement
    identities, signed gates that disagree, fewer than `SEEDS_FOR_HIGH` seeds, or source rates that are truncated or not
    known to be whole.

    Args:
        outcome: of `bucket`.
        signed_bucket: bucket that the signed gates give.
        n_seeds: training seeds.
        drift_triggered: whether the registered drift trigger fired; None when there was no inherited source to test.
        drift_confounded: whether the drift comparison crosses measurement identities.
        drifted_since: earlier measurements of the study against which the trigger fired: `first`, `last`.
        truncation_flagged: number of source rates flagged for truncation.
        truncation_unknown: number of source rates of which it is not recorded why their completions ended.
    """
    low = []
    if drift_triggered and not drift_confounded:
        low.append("the drift trigger fired")
    low += [f"the drift trigger fired against the {earlier} measurement" for earlier in drifted_since]
    if outcome.bucket != "H_consistent":
        low.append(f"the bucket is {outcome.bucket}, not H_consistent")
    if n_seeds <= 1:
        low.append("only one seed was trained")
    if low:
        return Confidence("LOW", tuple(low))
    moderate = []
    if drift_confounded:
        moderate.append("drift of the inherited sources cannot be judged: the measurements have different identities")
    elif drift_triggered is None:
        moderate.append("drift was not tested: no source has an unchanged adapter in a parent study")
    if signed_bucket != outcome.bucket:
        moderate.append(f"gates that require the registered direction give {signed_bucket}")
    if n_seeds < SEEDS_FOR_HIGH:
        moderate.append(f"{n_seeds} seeds, {SEEDS_FOR_HIGH} would show how much a seed matters")
    if truncation_flagged:
        moderate.append(f"{truncation_flagged} source rates are flagged for truncated completions")
    if truncation_unknown:
        moderate.append(f"of {truncation_unknown} source rates it is not recorded whether completions were truncated")
    if moderate:
        return Confidence("MODERATE", tuple(moderate))
    return Confidence("HIGH", (f"all gates hold, {n_seeds} seeds, no drift trigger, no truncated source rate",))


def _below(p: float | None, alpha: float) -> bool:
    return p is not None and p < alpha


def _not_below(p: float | None, alpha: float) -> bool:
    return p is not None and p >= alpha


def _opposite(inputs: BucketInputs, layer: int) -> bool:
    rho = inputs.rho.get(layer)
    return rho is not None and rho * inputs.registered_sign < 0


def _anti_correlated(inputs: BucketInputs, layer: int) -> bool:
    if not _opposite(inputs, layer):
        return False
    neighbours = sum(_opposite(inputs, layer + step) for step in NEIGHBOURS)
    return _below(inputs.p_holm.get(layer), inputs.alpha) or neighbours >= _NEIGHBOURS_NEEDED


def _conditions(inputs: BucketInputs) -> tuple[str, ...]:
    found: list[str] = []
    direction = "positive" if inputs.registered_sign < 0 else "negative"
    for layer in inputs.primary_layers:
        if inputs.p.get(layer) is None:
            found.append(f"layer {layer}: rho not estimable")
            continue
        if _opposite(inputs, layer):
            neighbours = sum(_opposite(inputs, layer + step) for step in NEIGHBOURS)
            found.append(f"layer {layer}: rho {direction}, as in {neighbours} of 4 neighbouring layers")
        raw = "" if _below(inputs.p.get(layer), inputs.alpha) else "not "
        found.append(f"layer {layer}: {raw}raw-significant")
        partial = inputs.length_partial_p.get(layer)
        if partial is None:
            found.append(f"layer {layer}: length partial not estimable")
        else:
            found.append(f"layer {layer}: length partial {'' if _below(partial, inputs.alpha) else 'not '}significant")
        gates = inputs.gates.get(layer, (False, False, False))
        held = [name for name, holds in zip("ABC", gates, strict=True) if holds]
        found.append(f"layer {layer}: {'gates ' + ', '.join(held) + ' hold' if held else 'no gate holds'}")
    tests = [p for p in inputs.p_holm.values() if p is not None]
    found.append(f"{sum(p < inputs.alpha for p in tests)} of {len(tests)} layers Holm-significant")
    return tuple(found)
