"""Surface baselines: how well the prompt text alone predicts the source rate, beside the cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from persona_assets.statistics.correlations import holm, pearson, spearman
from persona_assets.statistics.dependent_correlations import mrr_z, steiger_z, williams_t2
from persona_assets.statistics.scan import OUTCOME
from persona_assets.statistics.tidy import RowTemplate, StatisticsError, TidyRow, finite_vector, tidy_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import polars as pl

    from persona_assets.statistics.dependent_correlations import DependentTest
    from persona_assets.statistics.observations import StudyObservations
    from persona_assets.statistics.tidy import FloatArray

FAMILY = "baselines"
TESTS: dict[str, Callable[[float, float, float, int], DependentTest]] = {
    "mrr_z": mrr_z,
    "steiger_eq14_z": steiger_z,
    "williams_t2": williams_t2,
}


def levenshtein(a: str, b: str) -> int:
    """Smallest number of character insertions, deletions and substitutions that turn one text into the other.

    Source: Wagner & Fischer (1974), one row at a time; insertions within a row are a running minimum.
    """
    if len(a) < len(b):
        a, b = b, a
    positions = np.arange(len(b) + 1)
    letters = np.array([ord(character) for character in b], dtype=np.int64)
    row = positions.copy()
    for character in a:
        step = np.empty_like(row)
        step[0] = row[0] + 1
        step[1:] = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(character)))
        row = np.minimum.accumulate(step - positions) + positions
    return int(row[-1])


def jaccard(a: Collection[object], b: Collection[object]) -> float:
    """Shared elements over all elements of two sets.

    Raises:
        StatisticsError: both are empty, so the ratio does not exist.
    """
    first, second = set(a), set(b)
    if not first | second:
        raise StatisticsError("jaccard: both texts are empty.")
    return len(first & second) / len(first | second)


def surface_predictors(
    prompts: Sequence[str], anchor_prompt: str, token_ids: Sequence[Collection[int]] | None = None
) -> dict[str, FloatArray]:
    """Similarity of each prompt's text with the anchor prompt's.

    Args:
        prompts: N system prompts.
        anchor_prompt: the anchor's.
        token_ids: tokens of each prompt under the base model's tokenizer, the anchor's being those of the prompt
            equal to `anchor_prompt`; None leaves `bpe_jaccard` out.

    Returns:
        `neg_levenshtein` (characters), `token_jaccard` (lower-cased whitespace tokens), `bpe_jaccard`; [N] each,
        larger is more alike.

    Raises:
        StatisticsError: lengths differ, or the anchor's prompt is not among the prompts.
    """
    words = set(anchor_prompt.lower().split())
    predictors = {
        "neg_levenshtein": np.array([-float(levenshtein(prompt, anchor_prompt)) for prompt in prompts]),
        "token_jaccard": np.array([jaccard(prompt.lower().split(), words) for prompt in prompts]),
    }
    if token_ids is not None:
        if len(token_ids) != len(prompts):
            raise StatisticsError(f"{len(prompts)} prompts need as many sets of token ids, got {len(token_ids)}.")
        if anchor_prompt not in prompts:
            raise StatisticsError("surface_predictors: the anchor's prompt is not among the prompts.")
        anchor_ids = token_ids[list(prompts).index(anchor_prompt)]
        predictors["bpe_jaccard"] = np.array([jaccard(ids, anchor_ids) for ids in token_ids])
    return predictors


def baseline_rows(
    observations: StudyObservations,
    predictors: Mapping[str, FloatArray],
    primary_layers: Sequence[int],
) -> pl.DataFrame:
    """Correlations of the surface predictors with the source rate, and their tests against the cosine.

    Args:
        observations: the study's personas.
        predictors: from `surface_predictors`, [N] each in the order of the observations.
        primary_layers: layers of the cosine to test against.

    Returns:
        Tidy rows. Per predictor: `spearman`, `pearson`. Per layer and predictor, on Spearman correlations: `mrr_z`
        (registered), `steiger_eq14_z`, `williams_t2`; the same on Pearson correlations with `_pearson` appended, and
        `mrr_z_holm` (p adjusted over all layers and predictors). Positive: the cosine's correlation is the larger.
    """
    row = RowTemplate(FAMILY, observations.n, outcome=OUTCOME)
    rows: list[TidyRow] = []
    for name, values in predictors.items():
        x = finite_vector(values, name)
        for statistic, function in (("spearman", spearman), ("pearson", pearson)):
            estimate, p, note = function(x, observations.rate)
            registered = statistic == "spearman"
            rows.append(row(statistic, None, estimate, p=p, predictor=name, registered=registered, note=note))
    tests: list[TidyRow] = []
    for layer in primary_layers:
        for name, values in predictors.items():
            tests += _tests(observations, layer, name, finite_vector(values, name))
    rows += tests
    main = [test for test in tests if test.statistic == "mrr_z"]
    for test, p in zip(main, holm([test.p for test in main]), strict=True):
        note = f"Holm over {len(main)} tests" if p is not None else test.note
        rows.append(row("mrr_z_holm", test.layer, test.estimate, p=p, predictor=test.predictor, note=note))
    return tidy_frame(rows)


def _tests(observations: StudyObservations, layer: int, name: str, x: FloatArray) -> list[TidyRow]:
    row = RowTemplate(FAMILY, observations.n, f"cosine - {name}", OUTCOME)
    if not observations.has_layer(layer):
        missing = f"not estimable: layer {layer} was not measured"
        return [
            row(statistic + suffix, layer, registered=statistic == "mrr_z" and not suffix, note=missing)
            for suffix in ("", "_pearson")
            for statistic in TESTS
        ]
    return compare_predictors(row, layer, ("cosine", observations.at(layer)), (name, x), observations.rate, registered=True)


def compare_predictors(
    row: RowTemplate,
    layer: int,
    first: tuple[str, FloatArray],
    second: tuple[str, FloatArray],
    rate: FloatArray,
    *,
    registered: bool,
) -> list[TidyRow]:
    """Test whether two predictors measured on the same personas correlate differently with the source rate.

    Args:
        row: template that carries family, n and predictor.
        layer: layer of the rows.
        first: name and [N] values.
        second: name and [N] values.
        rate: [N] source rates.
        registered: whether the registered test (`mrr_z` on Spearman correlations) is a registered row here.

    Returns:
        The three tests on Spearman correlations and, with `_pearson` appended, on Pearson correlations. Positive: the
        first predictor's correlation is the larger.
    """
    rows = []
    for suffix, function in (("", spearman), ("_pearson", pearson)):
        (r1, _, why1), (r2, _, why2), (rx, _, why3) = (
            function(first[1], rate),
            function(second[1], rate),
            function(first[1], second[1]),
        )
        for statistic, test in TESTS.items():
            marked = registered and statistic == "mrr_z" and not suffix
            if r1 is None or r2 is None or rx is None:
                rows.append(row(statistic + suffix, layer, registered=marked, note=why1 or why2 or why3))
                continue
            result = test(r1, r2, rx, len(rate))
            text = f"{first[0]} {r1:.4f}, {second[0]} {r2:.4f}, between them {rx:.4f}"
            note = result.reason or text
            rows.append(row(statistic + suffix, layer, result.statistic, p=result.p, registered=marked, note=note))
    return rows
