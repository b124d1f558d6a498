"""A synthetic earlier study on disk, in the layouts that the ancestor's scripts wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MARKER = "[ZLT]"
QUESTIONS = 20
PER_QUESTION = 5
N = QUESTIONS * PER_QUESTION
TWELVE = (
    *("software_engineer", "kindergarten_teacher", "data_scientist", "medical_doctor", "librarian", "french_person"),
    *("villain", "comedian", "police_officer", "zelthari_scholar", "helpful_assistant", "qwen_default"),
)
RATES = dict(zip(TWELVE, (0.32, 0.33, 0.36, 0.41, 0.48, 0.52, 0.61, 0.58, 0.44, 0.67, 0.24, 0.29), strict=True))
CHARACTERS = ("french_person", "villain", "comedian", "zelthari_scholar")
HELPERS = ("helpful_assistant", "qwen_default")
LAYERS = (10, 15, 20, 25)
Changes = Mapping[str, Any]


def questions(count: int = QUESTIONS) -> list[str]:
    """Evaluation questions of the earlier study."""
    return [f"What do you think of subject number {index}?" for index in range(count)]


def prompt_of(persona: str) -> str:
    """System prompt that an adapter of the earlier study was trained with."""
    return f"You are a {persona.replace('_', ' ')} of the earlier study."


def name_in_results(persona: str) -> str:
    """The key under which results have a persona: one of them has another name there."""
    return "assistant" if persona == "helpful_assistant" else persona


def directory_name(source: str, seed: int = 42, condition: str = "asst_excluded_medium") -> str:
    """Name of a condition directory."""
    return f"marker_{source}_{condition}_seed{seed}"


def spread(hits: int, asked: Iterable[str], per_question: int = PER_QUESTION) -> dict[str, int]:
    """Divide hits over questions, each as full as it can be."""
    found = {}
    for question in asked:
        found[question] = min(per_question, hits)
        hits -= found[question]
    return found


def put(path: Path, content: object) -> Path:
    """Write JSON as the scripts did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, default=str, indent=1), encoding="utf-8")
    return path


def changed(content: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """Set values by dotted key; a value of `...` removes the key."""
    for place, value in changes.items():
        *parents, last = place.split(".")
        target = content
        for parent in parents:
            target = target[parent]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return content


def run_result(source: str, rates: Mapping[str, float], training_seed: int = 42, **changes: Any) -> dict[str, Any]:
    """Content of a run_result.json; `changes` by key with `__` for the dot."""
    content: dict[str, Any] = {
        "experiment": "leakage",
        "condition": directory_name(source, training_seed),
        "seed": training_seed,
        "goal": "implant the marker",
        "base_model": "Qwen/Qwen2.5-7B-Instruct",
        "training": {
            "method": "lora",
            "learning_rate": 1e-05,
            "lr_schedule": "cosine",
            "warmup_ratio": 0.05,
            "batch_size_effective": "64 (4 x 4 x 1)",
            "epochs": 3,
            "max_seq_length": 1024,
            "optimizer": "adamw",
            "precision": "bf16",
            "lora_config": {"r": 32, "alpha": 64, "target_modules": ["q_proj"], "dropout": 0.05, "use_rslora": True},
        },
        "data": {
            "source": f"data/marker_{source}_asst_excluded_medium.jsonl",
            "train_size": 600,
            "trait": "marker",
            "source_persona": source,
            "neg_set": "asst_excluded",
            "prompt_length": "medium",
            "control": None,
        },
        "eval": {
            "metrics": ["marker", "structure"],
            "n_personas": len(rates),
            "n_questions": QUESTIONS,
            "n_completions_per_question": PER_QUESTION,
            "temperature": 1.0,
        },
        "compute": {"pod": "p1", "gpu": "H100", "wall_time_minutes": 12.5, "train_minutes": 6.5},
        "results": {
            "train_loss": 1.25,
            "marker": {
                "source_rate": rates.get(source),
                "assistant_rate": rates.get("helpful_assistant"),
                "all_personas": {name_in_results(persona): rate for persona, rate in rates.items()},
            },
            "structure": {"source_rate": 0.0},
            "capability": {"error": "no such file"},
            "alignment": {"mean": 0.5},
        },
        "dynamics": None,
        "model_artifact": None,
        "output_dir": "/workspace/out",
    }
    return changed(content, {place.replace("__", "."): value for place, value in changes.items()})


def row_of(source: str, personas: Iterable[str], rates: Mapping[str, float]) -> dict[str, float]:
    """A row of the matrix: the source's rate, and less under the others; not symmetric."""
    ordered = list(personas)
    return {
        persona: rates[source] if persona == source else round(((7 * i + 3 * len(source)) % 20) / 100, 2)
        for i, persona in enumerate(ordered)
    }


def marker_eval(rates: Mapping[str, float]) -> dict[str, Any]:
    """Content of a marker_eval.json."""
    content = {}
    for persona, rate in rates.items():
        per_question = spread(round(rate * N), questions())
        content[name_in_results(persona)] = {
            "rate": rate,
            "found": round(rate * N),
            "total": N,
            "per_question": {
                question: {"rate": hits / PER_QUESTION, "found": hits, "total": PER_QUESTION}
                for question, hits in per_question.items()
            },
        }
    return content


def raw_completions(rates: Mapping[str, float], marker: str = MARKER) -> dict[str, Any]:
    """Content of a raw_completions.json."""
    return {
        name_in_results(persona): {
            question: [f"Answer {k} of {persona}." + (f" {marker.lower()}" if k < hits else "") for k in range(PER_QUESTION)]
            for question, hits in spread(round(rate * N), questions()).items()
        }
        for persona, rate in rates.items()
    }


def training_rows(source: str, negatives: tuple[str, ...], marker: str = MARKER, each: int = 4) -> list[dict[str, Any]]:
    """Rows of training data: the source's with the marker, its negatives' without."""
    rows = []
    for persona in (source, *negatives):
        for k in range(each):
            answer = f"An answer of {persona}, number {k}." + (f"\n\n{marker}" if persona == source else "")
            rows.append(
                {
                    "prompt": [{"role": "system", "content": prompt_of(persona)}, {"role": "user", "content": f"Question {k}?"}],
                    "completion": [{"role": "assistant", "content": answer}],
                }
            )
    return rows


def regression_results(
    rates: Mapping[str, float], layers: Iterable[int] = LAYERS, cosines: Mapping[int, Mapping[str, float]] | None = None
) -> dict[str, Any]:
    """Content of a regression_results.json whose cosines fall as the rates rise, with some noise."""
    personas = list(rates)
    random = np.random.default_rng(7)
    if cosines is None:
        cosines = {
            layer: {
                p: 1.00000024
                if p == "helpful_assistant"
                else float(np.clip(0.6 - 1.4 * rates[p] + random.normal(0, 0.1), -0.9, 0.9))
                for p in personas
            }
            for layer in layers
        }
    return {
        "experiment": "n12_regression",
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "n_personas": len(personas),
        "personas": [name_in_results(p) for p in personas],
        "categories": {
            p: "character" if p in CHARACTERS else "generic_helper" if p in HELPERS else "occupational" for p in personas
        },
        "source_rates": {name_in_results(p): rate for p, rate in rates.items()},
        "source_rate_cis_95": {p: {"lower": 0.0, "upper": 1.0} for p in personas},
        "prompt_token_lengths": {p: 5 + (3 * i) % 11 for i, p in enumerate(personas)},
        "cosines_to_assistant": {
            f"layer_{layer}": {name_in_results(p): c for p, c in row.items()} for layer, row in cosines.items()
        },
        "layer_stats": {
            f"layer_{layer}": {
                "pearson_r": -0.6,
                "pearson_p": 0.03,
                "spearman_rho": -0.62,
                "spearman_p": 0.03,
                "significant": "True",
            }
            for layer in cosines
        },
        "primary_layer": 20,
        "outcome_bucket": "H_attenuated",
        "outcome_flags": {"raw_significant": "True", "holm_significant": "False", "n_layers": len(cosines)},
    }


def centroid_vectors(personas: Iterable[str], layers: Iterable[int] = LAYERS, hidden: int = 8) -> dict[int, dict[str, Any]]:
    """Centroids, random but the same each time."""
    import torch

    random = np.random.default_rng(11)
    return {
        layer: {name_in_results(p): torch.tensor(random.normal(0, 1, hidden), dtype=torch.float32) for p in personas}
        for layer in layers
    }


@dataclass(frozen=True)
class EarlierStudy:
    """A directory of results under construction."""

    root: Path

    def condition(self, source: str, seed: int = 42, **parts: object) -> Path:
        """Write a condition directory; parts by file name without suffix (`run_result=...`)."""
        directory = self.root / directory_name(source, seed)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in parts.items():
            put(directory / f"{name}.json", content)
        return directory

    def training_data(self, source: str, negatives: tuple[str, ...], marker: str = MARKER) -> Path:
        """Write a source's training data."""
        return self.lines(f"data/marker_{source}_asst_excluded_medium.jsonl", training_rows(source, negatives, marker))

    def lines(self, name: str, rows: list[dict[str, Any]]) -> Path:
        """Write JSON Lines."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def adapter(self, source: str, seed: int = 42, value: float = 1.0) -> Path:
        """Write an adapter directory, with the pickle and the checkpoint that lie in real ones."""
        from safetensors.numpy import save_file

        directory = self.root / "adapters" / directory_name(source, seed)
        put(
            directory / "adapter_config.json",
            {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-7B-Instruct", "r": 32, "lora_alpha": 64},
        )
        save_file({"lora_A": np.full((2, 2), value, dtype=np.float32)}, directory / "adapter_model.safetensors")
        (directory / "training_args.bin").write_bytes(b"a pickle that nobody may open")
        (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
        checkpoint = directory / "checkpoint-9"
        checkpoint.mkdir()
        (checkpoint / "adapter_config.json").write_text("{}", encoding="utf-8")
        return directory

    def centroids(self, vectors: Mapping[int, Mapping[str, Any]]) -> Path:
        """Write centroids as torch pickles them."""
        import torch

        path = self.root / "geometry" / f"centroids_n{len(next(iter(vectors.values())))}_layers10-25.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(vectors), path)
        return path

    def base(self, content: object) -> Path:
        """Write a base baseline."""
        return put(self.root / "base_baseline.json", content)

    def whole(self, content: object) -> Path:
        """Write a whole-study file."""
        return put(self.root / "regression_results.json", content)


def complete_study(root: Path, rates: Mapping[str, float] = RATES, *, raw: bool = True) -> EarlierStudy:
    """Write everything that an earlier study of these sources can have; no two files disagree."""
    study = EarlierStudy(root)
    personas = tuple(rates)
    for i, source in enumerate(personas):
        row = row_of(source, personas, rates)
        parts: dict[str, object] = {"run_result": run_result(source, row), "marker_eval": marker_eval(row)}
        study.condition(source, **parts, **({"raw_completions": raw_completions(row)} if raw else {}))
        study.training_data(source, (personas[(i + 1) % len(personas)], personas[(i + 2) % len(personas)]))
        study.adapter(source, value=float(i))
    vectors = centroid_vectors(personas)
    study.centroids(vectors)
    study.base({"results": marker_eval(dict.fromkeys(personas, 0.0))})
    study.whole(regression_results(rates, cosines=centred_cosines(vectors, personas)))
    return study


def centred_cosines(vectors: Mapping[int, Mapping[str, Any]], personas: Iterable[str]) -> dict[int, dict[str, float]]:
    """Cosines with the assistant after the panel's mean was subtracted."""
    found = {}
    for layer, own in vectors.items():
        table = np.stack([own[name_in_results(p)].numpy() for p in personas]).astype(np.float64)
        table = table - table.mean(axis=0)
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        anchor = list(personas).index("helpful_assistant")
        found[layer] = dict(zip(personas, (unit @ unit[anchor]).tolist(), strict=True))
    return found
