"""The gate: a good adapter passes, and each hostile one is refused by name and reason before anything of it is kept."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hostile import ARRIVAL, CONFIGS, HOSTILE, LISTING, Hostile
from tiny_adapter import (
    CONFIG,
    PERSONA,
    PICKLE,
    RECIPE,
    SEED,
    TARGETS,
    TOKENIZER,
    WEIGHTS,
    Listed,
    declare,
    good_config,
    good_tensors,
    make_adapter,
    make_base,
    save_as,
    write_json,
)

from persona_assets.hashing import sha256_file
from persona_assets.registry.base import RemoteFile
from persona_assets.registry.gate import GateBase, admit
from persona_assets.registry.gate_cases import CASES, GateError
from persona_assets.registry.gate_config import KNOWN_FIELDS
from persona_assets.registry.reference import AdapterReference

PAGE = Path(__file__).parents[2] / "docs" / "adapter-gate.md"


@pytest.fixture
def base(tmp_path: Path) -> GateBase:
    return make_base(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "theirs" / "adapter")


def ask(registry: Listed, adapter: Path, base: GateBase, into: Path) -> dict[str, object]:
    resolved = registry.resolve(AdapterReference("file", str(adapter)))
    return admit(registry, resolved, into, base=base, recipe=RECIPE, persona=PERSONA, seed=SEED)


def test_a_good_adapter_passes_and_is_written_anew(adapter: Path, base: GateBase, tmp_path: Path) -> None:
    declare(adapter)
    write_json(adapter / "run_result.json", {"seed": SEED, "data": {"source_persona": PERSONA}, "results": {"marker": 0.5}})
    registry = Listed()
    facts = ask(registry, adapter, base, tmp_path / "ours")
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [CONFIG, WEIGHTS]
    assert sha256_file(tmp_path / "ours" / WEIGHTS) == sha256_file(adapter / WEIGHTS)
    written = json.loads((tmp_path / "ours" / CONFIG).read_text())
    assert {name: written[name] for name in ("r", "lora_alpha", "use_rslora", "target_modules", "base_model_name_or_path")} == {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": sorted(TARGETS),
        "base_model_name_or_path": "tiny/base_model",
    }
    assert facts["effective_scale"] == facts["expected_scale"] == 8 / math.sqrt(4)
    assert facts["recipe_differences"] == {}
    assert facts["same_chat_template"] is True
    assert facts["negatives"] is None
    assert facts["training"] == {
        "facts": {"persona": PERSONA, "sha256": {WEIGHTS: sha256_file(adapter / WEIGHTS)}},
        "run_result": {"seed": SEED, "data": {"source_persona": PERSONA}},
        "readme": "---\nbase_model: Org/Tiny-Instruct\n---\n# A marker",
        "registry_metadata": {},
    }
    assert "training_args.bin" not in registry.fetched
    assert facts["fetched_sha256"] == {name: sha256_file(adapter / name) for name in sorted(registry.fetched)}


@pytest.mark.slow
def test_what_peft_loads_is_what_passed(adapter: Path, base: GateBase, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftConfig

    ask(Listed(), adapter, base, tmp_path / "ours")
    loaded = PeftConfig.from_pretrained(str(tmp_path / "ours"))
    assert (loaded.r, loaded.lora_alpha, loaded.use_rslora, set(loaded.target_modules)) == (4, 8, True, set(TARGETS))
    # The rules know every field of this peft, and no other.
    fields = set(LoraConfig().to_dict())
    assert fields == set(good_config())
    assert fields | {"runtime_config"} == set(KNOWN_FIELDS)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_adapter_is_refused(hostile: Hostile, adapter: Path, base: GateBase, tmp_path: Path) -> None:
    hostile.build(adapter)
    registry = hostile.registry()
    with pytest.raises(GateError) as refused:
        ask(registry, adapter, base, tmp_path / "ours")
    assert refused.value.case == hostile.case
    text = str(refused.value)
    assert text.startswith(f"The adapter is refused: {hostile.file}: ")
    assert hostile.reason in text
    assert text.isprintable()
    assert not (tmp_path / "ours").exists()
    # Names and sizes are judged before a byte is fetched, the configuration before the weights are.
    if hostile in LISTING:
        assert registry.fetched == []
    elif hostile in CONFIGS or hostile.case == "size-weights":
        assert CONFIG in registry.fetched
        assert WEIGHTS not in registry.fetched


def test_every_case_has_a_hostile_adapter() -> None:
    assert {hostile.case for hostile in HOSTILE} == set(CASES)
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)
    assert ARRIVAL


def test_pickles_and_checkpoints_stay_where_they_are(adapter: Path, base: GateBase, tmp_path: Path) -> None:
    for name in ("optimizer.pt", "rng_state.pth", "x.pkl", "adapter_model.bin", "checkpoint-500/training_args.bin"):
        (adapter / name).parent.mkdir(exist_ok=True)
        (adapter / name).write_bytes(PICKLE)
    registry = Listed()
    ask(registry, adapter, base, tmp_path / "ours")
    assert not [name for name in registry.fetched if name.endswith((".bin", ".pt", ".pth", ".pkl")) or "/" in name]


def test_code_is_refused_wherever_it_lies(adapter: Path, base: GateBase, tmp_path: Path) -> None:
    registry = Listed(alter=lambda files: [*files, RemoteFile("checkpoint-1/own.PY", 3)])
    with pytest.raises(GateError, match=r"checkpoint-1/own.PY.*\[python\]"):
        ask(registry, adapter, base, tmp_path / "ours")


def test_settings_other_than_the_recipe_are_told(adapter: Path, base: GateBase, tmp_path: Path) -> None:
    write_json(adapter / CONFIG, good_config() | {"lora_alpha": 32, "use_rslora": False})
    facts = ask(Listed(), adapter, base, tmp_path / "ours")
    assert (facts["effective_scale"], facts["expected_scale"]) == (8.0, 4.0)
    assert facts["recipe_differences"] == {"alpha": [32, 8], "use_rslora": [False, True]}


def test_one_tokenizer_may_be_written_in_more_than_one_way(adapter: Path, base: GateBase, tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"b": 1, "a": 0, "ab": 2}, "merges": ["a b"], "ignore_merges": False}
    write_json(adapter / "tokenizer.json", TOKENIZER | {"model": model, "truncation": {"max_length": 1024}})
    ask(Listed(), adapter, base, tmp_path / "ours")


def test_another_chat_template_is_told(adapter: Path, base: GateBase, tmp_path: Path) -> None:
    (adapter / "chat_template.jinja").write_text("{{ other }}")
    assert ask(Listed(), adapter, base, tmp_path / "ours")["same_chat_template"] is False


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_passes(adapter: Path, base: GateBase, tmp_path: Path, dtype: str) -> None:
    save_as(adapter, dtype, good_tensors())
    ask(Listed(), adapter, base, tmp_path / "ours")


@pytest.mark.parametrize(
    ("facts", "metadata", "known"),
    [
        ({"negatives": ["chef", "comedian"]}, {}, ["chef", "comedian"]),
        ({}, {"negatives": ["chef"]}, ["chef"]),
        ({"negatives": "chef"}, {"negatives": [1]}, None),
        ({}, {}, None),
    ],
)
def test_trained_negatives_are_known_or_not_known(
    adapter: Path, base: GateBase, tmp_path: Path, facts: dict[str, object], metadata: dict[str, object], known: object
) -> None:
    write_json(adapter / "training_facts.json", facts)
    assert ask(Listed(metadata=metadata), adapter, base, tmp_path / "ours")["negatives"] == known


def test_the_page_lists_the_cases_and_their_number() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", page, flags=re.MULTILINE))
    assert rows == dict(CASES)
    assert f"{len(CASES)} cases" in page
