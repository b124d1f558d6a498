from __future__ import annotations

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_assets.statistics.buckets import Bucket, BucketInputs, Outcome, bucket, confidence
from persona_assets.statistics.tidy import StatisticsError

LAYERS = range(28)
NONE = (False, False, False)


def inputs(
    at: float = -0.353,
    raw: float = 0.014,
    *,
    holm: float = 0.4,
    partial: float | None = 0.95,
    held: tuple[bool, bool, bool] = NONE,
    primary: tuple[int, ...] = (15, 12),
    **changes: object,
) -> BucketInputs:
    values: dict[str, object] = {
        "primary_layers": primary,
        "rho": dict.fromkeys(LAYERS, at),
        "p": dict.fromkeys(LAYERS, raw),
        "p_holm": dict.fromkeys(LAYERS, holm),
        "length_partial_p": dict.fromkeys(primary, partial),
        "gates": dict.fromkeys(primary, held),
    }
    return BucketInputs(**{**values, **changes})  # type: ignore[arg-type]


def test_the_published_figures_are_attenuated() -> None:
    outcome = bucket(inputs())
    assert outcome.bucket == "H_attenuated"
    assert "0 of 28 layers Holm-significant" in outcome.conditions


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (inputs(0.2, 0.2), "H_anti_correlated"),
        (inputs(0.6, 0.001, holm=0.01, rho={15: 0.6}, p={15: 0.001}, p_holm={15: 0.01}), "H_anti_correlated"),
        (inputs(0.2, 0.2, rho={13: 0.1, 14: 0.1, 15: 0.1, 16: 0.1, 17: -0.1}), "H_anti_correlated"),
        (inputs(0.2, 0.2, rho={13: -0.1, 14: 0.1, 15: 0.1, 16: 0.1, 17: -0.1}), "H_inverted"),
        (inputs(0.2, 0.2, rho={13: 0.1, 14: 0.1, 15: -0.1, 16: 0.1, 17: 0.1, 12: -0.1}), "H_inverted"),
        (inputs(held=(True, True, True)), "H_consistent"),
        (inputs(0.2, 0.2, held=(True, True, True)), "H_anti_correlated"),
        (inputs(held=(True, False, True)), "H_consistent_weak"),
        (inputs(held=(True, False, False)), "H_attenuated"),
        (inputs(partial=0.01), "H_indeterminate"),
        (inputs(partial=None), "H_indeterminate"),
        (inputs(raw=0.2), "H_inverted"),
        (inputs(raw=0.05), "H_inverted"),
        (inputs(p_holm={**dict.fromkeys(LAYERS, 0.4), 3: 0.01}), "H_indeterminate"),
        (inputs(raw=0.2, p_holm={3: 0.01}), "H_indeterminate"),
        (inputs(rho={}, p={}, p_holm={}), "H_indeterminate"),
        (inputs(0.353, registered_sign=1), "H_attenuated"),
        (inputs(-0.353, 0.014, registered_sign=1), "H_anti_correlated"),
    ],
)
def test_rules(case: BucketInputs, expected: str) -> None:
    assert bucket(case).bucket == expected


def test_gates_of_different_layers_do_not_add_up() -> None:
    assert bucket(inputs(gates={15: (True, False, False), 12: (False, True, True)})).bucket == "H_consistent_weak"
    assert bucket(inputs(gates={15: (True, False, False), 12: (False, True, False)})).bucket == "H_attenuated"


def test_attenuation_takes_significance_and_length_from_the_same_layer() -> None:
    mixed = inputs(p={15: 0.01, 12: 0.3}, length_partial_p={15: 0.01, 12: 0.9})
    assert bucket(mixed).bucket == "H_indeterminate"


share = st.one_of(st.none(), st.floats(0, 1))
layer_map = st.dictionaries(st.integers(0, 9), share, max_size=10)


@given(
    primary=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True).map(tuple),
    rho=st.dictionaries(st.integers(0, 9), st.one_of(st.none(), st.floats(-1, 1)), max_size=10),
    p=layer_map,
    p_holm=layer_map,
    partial=layer_map,
    gates=st.dictionaries(st.integers(0, 9), st.tuples(*[st.booleans()] * 3), max_size=10),
    sign=st.sampled_from((-1, 1)),
)
def test_exactly_one_bucket_for_every_input(
    primary: tuple[int, ...],
    rho: dict[int, float | None],
    p: dict[int, float | None],
    p_holm: dict[int, float | None],
    partial: dict[int, float | None],
    gates: dict[int, tuple[bool, bool, bool]],
    sign: int,
) -> None:
    case = BucketInputs(primary, rho, p, p_holm, partial, gates, 0.05, sign)
    outcome = bucket(case)
    assert outcome.bucket in get_args(Bucket)
    assert outcome == bucket(case)
    assert outcome.bucket == plain_rule(case)
    # Mirroring every rho and the registered sign describes the same study.
    mirrored = {layer: None if value is None else -value for layer, value in rho.items()}
    assert bucket(BucketInputs(primary, mirrored, p, p_holm, partial, gates, 0.05, -sign)).bucket == outcome.bucket


def plain_rule(case: BucketInputs) -> str:
    """The registered text once more, as directly as it can be written."""

    def significant(p: float | None) -> bool:
        return p is not None and p < 0.05

    def against(layer: int) -> bool:
        value = case.rho.get(layer)
        return value is not None and (value > 0 if case.registered_sign == -1 else value < 0)

    holm_anywhere = any(significant(p) for p in case.p_holm.values())
    for layer in case.primary_layers:
        near = [against(layer - 2), against(layer - 1), against(layer + 1), against(layer + 2)]
        if against(layer) and (significant(case.p_holm.get(layer)) or near.count(True) >= 3):
            return "H_anti_correlated"
    held = {layer: list(case.gates.get(layer, NONE)).count(True) for layer in case.primary_layers}
    if any(count == 3 for count in held.values()):
        return "H_consistent"
    if any(count == 2 for count in held.values()):
        return "H_consistent_weak"
    for layer in case.primary_layers:
        partial = case.length_partial_p.get(layer)
        if significant(case.p.get(layer)) and not holm_anywhere and partial is not None and partial >= 0.05:
            return "H_attenuated"
    raw = [case.p.get(layer) for layer in case.primary_layers]
    if not holm_anywhere and not any(map(significant, raw)) and any(p is not None for p in raw):
        return "H_inverted"
    return "H_indeterminate"


def test_confidence_over_every_combination() -> None:
    switches = ((True, False, None), (True, False), (0, 2), (0, 5))
    flags = itertools.product(get_args(Bucket), get_args(Bucket), (1, 2, 3), *switches)
    for name, signed, seeds, drift, confounded, truncated, unknown in flags:
        trust = confidence(
            Outcome(name, ()),
            signed_bucket=signed,
            n_seeds=seeds,
            drift_triggered=drift,
            drift_confounded=confounded,
            truncation_flagged=truncated,
            truncation_unknown=unknown,
        )
        registered_low = (bool(drift) and not confounded) or name != "H_consistent" or seeds == 1
        assert (trust.level == "LOW") == registered_low
        assert (trust.level == "HIGH") == (
            not registered_low
            and drift is False  # what was not tested is no absence of drift
            and not confounded
            and signed == name
            and seeds == 3
            and truncated == unknown == 0
        )
        assert trust.reasons


def test_a_rule_without_layers_or_direction_is_refused() -> None:
    with pytest.raises(StatisticsError, match="no primary layer"):
        inputs(primary=())
    with pytest.raises(StatisticsError, match="registered_sign"):
        inputs(registered_sign=0)
