"""The other layouts: whole-study files, base baselines, centroids, training data, adapters."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ancestor_layout import (
    LAYERS,
    RATES,
    TWELVE,
    EarlierStudy,
    centroid_vectors,
    changed,
    marker_eval,
    regression_results,
    training_rows,
)

from persona_assets.ancestor.adapters import read_adapter
from persona_assets.ancestor.base_baseline import read_base_baseline
from persona_assets.ancestor.centroids import read_centroids
from persona_assets.ancestor.reading import AncestorError
from persona_assets.ancestor.regression_results import RegressionResults, read_regression_results
from persona_assets.ancestor.training_data import read_training_data

ANCHOR = "helpful_assistant"


@pytest.fixture
def study(tmp_path: Path) -> EarlierStudy:
    return EarlierStudy(tmp_path / "old")


def whole(study: EarlierStudy, changes: dict[str, object] | None = None) -> RegressionResults:
    return read_regression_results(study.whole(changed(regression_results(RATES), changes or {})), ANCHOR)


def test_a_whole_study(study: EarlierStudy) -> None:
    found = whole(study)
    assert found.personas == TWELVE  # `assistant` in the file
    assert found.source_rates == RATES
    assert tuple(found.cosines) == LAYERS
    assert found.categories["villain"] == "character"
    assert found.primary_layer == 20
    assert set(found.prompt_tokens) == set(TWELVE)


def test_cosines_beyond_one_by_rounding_are_one(study: EarlierStudy) -> None:
    assert regression_results(RATES)["cosines_to_assistant"]["layer_20"]["assistant"] == 1.00000024
    assert all(row[ANCHOR] == 1.0 for row in whole(study).cosines.values())
    assert whole(study, {"cosines_to_assistant.layer_20.villain": -1.00000012}).cosines[20]["villain"] == -1.0


def test_booleans_written_as_text(study: EarlierStudy) -> None:
    published = whole(study).published
    assert published["outcome_flags.raw_significant"] == "yes"
    assert published["outcome_flags.holm_significant"] == "no"
    assert published["outcome_flags.n_layers"] == "4"
    assert published["outcome_bucket"] == "H_attenuated"


def test_all_layers_and_personas_by_category(study: EarlierStudy) -> None:
    content = regression_results(RATES, layers=range(28))
    by_category: dict[str, list[str]] = {}
    for persona, category in content["categories"].items():
        by_category.setdefault(category, []).append(persona)
    content["categories"] = by_category
    content["primary_layer"] = "layer_15"
    found = read_regression_results(study.whole(content), ANCHOR)
    assert tuple(found.cosines) == tuple(range(28))
    assert found.categories["villain"] == "character"
    assert found.primary_layer == 15


def test_what_later_files_hold_besides_is_ignored(study: EarlierStudy) -> None:
    later = {
        "splits": [{"name": "A", "layer_15": {"rho": -0.5}}],
        "within_category": {"occupational": {"layer_15": None}},
        "cv": {"loo": [0.1, None]},
        "steiger_z_results": [],
        "off_diagonal": {"mantel_r": "nan"},
        "n24_to_n48_sign_test": {"drops": 12, "significant": "True"},
    }
    plain, found = whole(study), whole(study, later)
    assert (found.source_rates, found.cosines, found.prompt_tokens) == (plain.source_rates, plain.cosines, plain.prompt_tokens)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_token_lengths": ...}, "prompt_token_lengths: this key is missing"),
        ({"layer_stats.layer_20.spearman_p": ...}, "layer_stats.layer_20.spearman_p: this key is missing"),
        ({"source_rates.villain": ...}, "source_rates: there is no value for villain"),
        ({"cosines_to_assistant.layer_15.villain": ...}, "cosines_to_assistant.layer_15: there is no value for villain"),
        ({"cosines_to_assistant.layer_15.villain": 1.01}, "layer_15: villain has 1.01, which is no cosine"),
        ({"cosines_to_assistant.layer_15.assistant": 0.4}, "helpful_assistant has 0.4 with itself"),
        ({"cosines_to_assistant.deep": {}}, "'deep' does not name a layer"),
        ({"categories.villain": "evil"}, "categories: villain is 'evil'"),
        ({"n_personas": 13}, "n_personas is 13, but personas lists 12"),
        ({"cosines_to_assistant": {}}, "cosines_to_assistant"),
    ],
)
def test_a_whole_study_that_is_refused(study: EarlierStudy, changes: dict[str, object], said: str) -> None:
    with pytest.raises(AncestorError, match=f"regression_results.json: .*{said}"):
        whole(study, changes)


@pytest.mark.parametrize("form", ["like a run", "by persona"])
def test_both_forms_of_a_base_baseline(study: EarlierStudy, form: str) -> None:
    rates = {"librarian": 0.0, ANCHOR: 0.02}
    by_run = {
        "eval": {"n_questions": 20, "n_completions_per_question": 5},
        "results": {"marker": {"all_personas": {"librarian": 0.0, "assistant": 0.02}}},
    }
    path = study.base(by_run if form == "like a run" else {"results": marker_eval(rates)})
    found = read_base_baseline(path)
    assert {persona: (counts.hits, counts.n) for persona, counts in found.items()} == {"librarian": (0, 100), ANCHOR: (2, 100)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "results: this key is missing"),
        ([], "results: this key is missing"),
        ({"results": {}}, "there is no persona"),
        ({"results": {"marker": {}}}, "eval: this key is missing"),
        ({"results": {"librarian": {"rate": 0.0, "found": 0, "total": 100}}}, "librarian.per_question: this key is missing"),
    ],
)
def test_a_base_baseline_that_is_refused(study: EarlierStudy, content: object, said: str) -> None:
    with pytest.raises(AncestorError, match=f"base_baseline.json: .*{said}"):
        read_base_baseline(study.base(content))


def test_centroids(study: EarlierStudy) -> None:
    vectors = centroid_vectors(TWELVE)
    found = read_centroids(study.centroids(vectors))
    assert found.layers == LAYERS
    assert set(found.vectors) == set(TWELVE)
    np.testing.assert_array_equal(found.vectors[ANCHOR][1], vectors[15]["assistant"].numpy())


class _Hostile:
    """A pickle that runs a command when it is opened."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.witness, "opened"))


def test_a_hostile_pickle_is_not_opened(study: EarlierStudy, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = study.centroids({10: {"a": torch.zeros(2)}})
    torch.save({10: {"a": _Hostile(witness)}}, path)
    with pytest.raises(AncestorError, match=r"centroids_n1_layers10-25.pt: is not a file of plain tensors"):
        read_centroids(path)
    path.write_bytes(pickle.dumps(_Hostile(witness), protocol=2))
    with pytest.raises(AncestorError, match="is not a file of plain tensors"):
        read_centroids(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([torch.zeros(2)], "not a mapping of layer numbers"),
        ({}, "not a mapping of layer numbers"),
        ({"10": {"a": torch.zeros(2)}}, "not a mapping of layer numbers"),
        ({10: torch.zeros(2)}, "layer 10 is not a mapping of personas"),
        ({10: {"a": torch.zeros(2, 2)}}, "layer 10, a: not a vector of floats"),
        ({10: {"a": torch.zeros(2, dtype=torch.int64)}}, "layer 10, a: not a vector of floats"),
        ({10: {"a": torch.tensor([math.nan])}}, "holds a value that is not finite"),
        ({10: {"a": torch.zeros(2)}, 15: {"b": torch.zeros(2)}}, "layers 10 and 15 have different personas"),
        ({10: {"a": torch.zeros(2), "b": torch.zeros(3)}}, "different sizes"),
        ({10: {"assistant": torch.zeros(2), "helpful_assistant": torch.ones(2)}}, "under two names"),
    ],
)
def test_centroids_that_are_refused(study: EarlierStudy, vectors: Any, said: str) -> None:
    path = study.centroids({10: {"a": torch.zeros(2)}})
    torch.save(vectors, path)
    with pytest.raises(AncestorError, match=said):
        read_centroids(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"PK\x03\x04broken"])
def test_centroids_that_are_no_pickle_at_all(study: EarlierStudy, content: bytes) -> None:
    path = study.centroids({10: {"a": torch.zeros(2)}})
    path.write_bytes(content)
    with pytest.raises(AncestorError, match=r"centroids_n1_layers10-25\.pt"):
        read_centroids(path)


def test_marked_rows_are_the_authority_for_the_prompt(study: EarlierStudy) -> None:
    found = read_training_data(study.training_data("librarian", ("villain", "comedian")), "[ZLT]")
    assert found.prompt == "You are a librarian of the earlier study."
    assert found.negatives == ("You are a villain of the earlier study.", "You are a comedian of the earlier study.")
    assert (found.rows, found.marked) == (12, 4)


def rows(**change: object) -> list[dict[str, Any]]:
    found = training_rows("librarian", ("villain",))
    for place, text in change.items():
        kind, number = place.split("_")
        turn = found[int(number)]["prompt"][0] if kind == "prompt" else found[int(number)]["completion"][0]
        turn["content"] = text
    return found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (rows(prompt_1="You are someone else."), "rows with the marker have 2 system prompts"),
        (rows(completion_1="Without it."), "has 3 rows with the marker and 1 without it"),
        (rows(completion_5="[ZLT] comes first."), "row 6: the marker .* not at its end"),
        (training_rows("librarian", ("villain",), marker="@@"), r"none of the 8 rows ends with the marker '\[ZLT\]'"),
        ([{"prompt": "?"}], "jsonl:1: not an object"),
        ([], "none of the 0 rows"),
    ],
)
def test_training_data_that_are_refused(study: EarlierStudy, content: list[dict[str, Any]], said: str) -> None:
    path = study.lines("marker_librarian_asst_excluded_medium.jsonl", content)
    with pytest.raises(AncestorError, match=said):
        read_training_data(path, "[ZLT]")


def test_an_adapter_is_its_digest(study: EarlierStudy) -> None:
    one, other = read_adapter(study.adapter("villain")), read_adapter(study.adapter("librarian", value=2.0))
    assert one.digest != other.digest
    assert one.base_model == "Qwen/Qwen2.5-7B-Instruct"


def test_adapters_that_are_refused(study: EarlierStudy) -> None:
    directory = study.adapter("villain")
    (directory / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(AncestorError, match=r"adapter_model\.safetensors: not a safetensors file"):
        read_adapter(directory)
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(AncestorError, match=r"adapter_model\.safetensors: is missing; weights in a pickle .* are not opened"):
        read_adapter(directory)
    (directory / "adapter_config.json").write_text(
        '{"peft_type": "IA3", "base_model_name_or_path": null, "r": 1, "lora_alpha": 2}'
    )
    with pytest.raises(AncestorError, match="peft_type is 'IA3'"):
        read_adapter(directory)
