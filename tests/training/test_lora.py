"""The LoRA trainer, against a plain peft loop and against itself."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from persona_assets.hashing import derive_seed
from persona_assets.models.loading import load_model, load_tokenizer
from persona_assets.study import Recipe
from persona_assets.training import (
    LoraTrainer,
    StepRecord,
    TrainingError,
    TrainingResult,
    plan_batches,
    tokenize_rows,
)
from persona_assets.training.effective_weights import EffectiveWeightsDecoder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from persona_assets.dataset import TrainingRow

pytestmark = pytest.mark.slow

BASE_NAME = "embedded/base_model"
NARROW, WIDE = 4, 32  # ranks, for layers 32 wide


def trainer_of(checkpoint: Path, recipe: Recipe, micro_batch_size: int = 8, dtype: str = "float32") -> LoraTrainer:
    return LoraTrainer.load(checkpoint, recipe, base_name=BASE_NAME, micro_batch_size=micro_batch_size, dtype=dtype)


def same_bits(first: TrainingResult, second: TrainingResult) -> bool:
    import torch

    return first.loss_curve == second.loss_curve and all(
        torch.equal(first.weights[name], second.weights[name]) for name in first.weights | second.weights
    )


@pytest.fixture(scope="module", params=[NARROW, WIDE], ids=["peft_forward", "effective_weights"])
def recipe(request: pytest.FixtureRequest, recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"r": request.param})


@pytest.fixture(scope="module")
def trainer(checkpoint: Path, recipe: Recipe) -> LoraTrainer:
    return trainer_of(checkpoint, recipe)


@pytest.fixture(scope="module")
def result(trainer: LoraTrainer, rows: list[TrainingRow]) -> TrainingResult:
    return trainer.train(rows, seed=42)


def test_it_is_what_a_plain_peft_loop_gives(
    checkpoint: Path, recipe: Recipe, rows: list[TrainingRow], trainer: LoraTrainer, result: TrainingResult
) -> None:
    assert isinstance(trainer._decoder, EffectiveWeightsDecoder) == (recipe.r == WIDE)
    losses, weights = _plain_peft_loop(checkpoint, recipe, rows, seed=42)
    assert [record.loss for record in result.loss_curve] == pytest.approx(losses, rel=1e-4)
    assert sorted(result.weights) == sorted(weights)
    for name, expected in weights.items():
        # Adam divides by the size of a gradient, so where that is all but zero rounding shows: in units of the rate.
        difference = (result.weights[name] - expected).abs().max().item()
        assert difference < 0.05 * recipe.learning_rate, name


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_effective_weights_are_not_used_where_they_would_not_do(checkpoint: Path, recipe: Recipe) -> None:
    wide = recipe.model_copy(update={"r": WIDE})
    dropped = trainer_of(checkpoint, wide.model_copy(update={"dropout": 0.1}))
    half = trainer_of(checkpoint, wide, dtype="bfloat16")
    with_head = trainer_of(checkpoint, wide.model_copy(update={"target_modules": ("q_proj", "lm_head")}))
    assert not any(isinstance(trainer._decoder, EffectiveWeightsDecoder) for trainer in (dropped, half, with_head))


def test_training_lowers_the_loss_and_counts_its_tokens(
    result: TrainingResult, checkpoint: Path, recipe: Recipe, rows: list[TrainingRow]
) -> None:
    tokens = sum(row.n_completion_tokens for row in tokenize_rows(load_tokenizer(checkpoint), rows, 128))
    assert result.trained_tokens == recipe.epochs * tokens
    assert result.final_loss < 0.9 * result.loss_curve[0].loss
    last = [record for record in result.loss_curve if record.epoch == recipe.epochs]
    assert sum(record.tokens for record in last) == tokens
    assert result.final_loss == pytest.approx(sum(record.loss * record.tokens for record in last) / tokens)
    assert result.seconds > 0


def test_the_schedule_warms_up_and_falls_along_a_cosine(result: TrainingResult, recipe: Recipe) -> None:
    n_steps = 2 * math.ceil(20 / 8)
    warmup = math.ceil(recipe.warmup_ratio * n_steps)
    assert [record.step for record in result.loss_curve] == list(range(1, n_steps + 1))
    assert [record.epoch for record in result.loss_curve] == [1] * (n_steps // 2) + [2] * (n_steps // 2)
    expected = [
        done / warmup if done < warmup else 0.5 * (1 + math.cos(math.pi * (done - warmup) / (n_steps - warmup)))
        for done in range(n_steps)
    ]
    rates = [record.learning_rate for record in result.loss_curve]
    assert rates == pytest.approx([recipe.learning_rate * factor for factor in expected])


def test_micro_batches_change_nothing_but_rounding(checkpoint: Path, recipe: Recipe, rows: list[TrainingRow]) -> None:
    import torch

    whole_recipe = recipe.model_copy(update={"effective_batch_size": 16})
    whole = trainer_of(checkpoint, whole_recipe, micro_batch_size=16).train(rows, seed=5)
    parts = trainer_of(checkpoint, whole_recipe, micro_batch_size=4).train(rows, seed=5)
    assert [record.loss for record in parts.loss_curve] == pytest.approx([record.loss for record in whole.loss_curve], rel=1e-4)
    for name, weight in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], weight, rtol=0, atol=0.05 * recipe.learning_rate)


def test_the_fifth_adapter_of_an_object_is_the_same_to_the_bit_as_the_first_of_another(
    checkpoint: Path, recipe: Recipe, rows: list[TrainingRow], result: TrainingResult
) -> None:
    import torch

    torch.manual_seed(99)  # the global generator has no say
    before = torch.get_rng_state()
    other = trainer_of(checkpoint, recipe)
    for number in range(4):
        assert not same_bits(other.train(rows[number:], seed=number), result)
    assert same_bits(other.train(rows, seed=42), result)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_that_broke_off_leaves_no_trace(trainer: LoraTrainer, rows: list[TrainingRow], result: TrainingResult) -> None:
    def interrupt(record: StepRecord) -> None:
        if record.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(rows, seed=1, on_step=interrupt)
    assert same_bits(trainer.train(rows, seed=42), result)


def test_dropout_comes_from_the_seed(checkpoint: Path, recipe: Recipe, rows: list[TrainingRow], result: TrainingResult) -> None:
    noisy = trainer_of(checkpoint, recipe.model_copy(update={"dropout": 0.2}))
    first = noisy.train(rows, seed=42)
    assert same_bits(noisy.train(rows, seed=42), first)
    assert not same_bits(first, result)
    assert first.loss_curve[0].loss == pytest.approx(result.loss_curve[0].loss, rel=1e-5)  # B is still zero
    assert first.final_loss < first.loss_curve[0].loss


def test_the_base_is_left_as_it_was(checkpoint: Path, trainer: LoraTrainer, result: TrainingResult) -> None:
    import torch

    untouched = dict(load_model(checkpoint, device="cpu", dtype="float32").named_parameters())
    base = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in trainer._model.named_parameters()
        if ".lora_" not in name
    }
    assert sorted(base) == sorted(untouched)
    assert all(torch.equal(base[name], untouched[name]) for name in untouched)


def test_every_step_is_reported_as_it_is_made(trainer: LoraTrainer, rows: list[TrainingRow], result: TrainingResult) -> None:
    seen: list[StepRecord] = []
    assert trainer.train(rows, seed=42, on_step=seen.append).loss_curve == tuple(seen) == result.loss_curve


def test_a_loss_that_is_not_finite_names_step_and_rate(trainer: LoraTrainer, rows: list[TrainingRow]) -> None:
    def spoil(record: StepRecord) -> None:
        if record.step == 2:
            trainer._parameters[0].data.fill_(float("inf"))

    with pytest.raises(TrainingError, match=r"Step 3 \(epoch 1\): loss nan, .* at learning rate 0\.00\d+"):
        trainer.train(rows, seed=42, on_step=spoil)


def test_a_module_that_the_base_lacks_is_named(checkpoint: Path, recipe: Recipe) -> None:
    wrong = recipe.model_copy(update={"target_modules": ("q_proj", "fc_9")})
    with pytest.raises(TrainingError, match=r"target_modules: the base model \(Qwen2ForCausalLM\) has no module named fc_9"):
        trainer_of(checkpoint, wrong)


def test_lora_weights_stay_float32_on_a_bfloat16_base(
    checkpoint: Path, recipe: Recipe, rows: list[TrainingRow], result: TrainingResult
) -> None:
    import torch

    half = trainer_of(checkpoint, recipe, dtype="bfloat16")
    found = half.train(rows, seed=42)
    assert next(half._model.base_model.model.model.embed_tokens.parameters()).dtype == torch.bfloat16
    assert {weight.dtype for weight in found.weights.values()} == {torch.float32}
    assert found.final_loss == pytest.approx(result.final_loss, rel=0.02)


def test_peft_loads_what_was_saved(checkpoint: Path, rows: list[TrainingRow], result: TrainingResult, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    result.save_adapter(tmp_path)
    loaded = PeftModel.from_pretrained(load_model(checkpoint, device="cpu", dtype="float32"), str(tmp_path)).eval()
    assert loaded.peft_config["default"].base_model_name_or_path == BASE_NAME
    before = _loss(load_model(checkpoint, device="cpu", dtype="float32"), checkpoint, rows)
    with loaded.disable_adapter():
        assert _loss(loaded, checkpoint, rows) == pytest.approx(before, rel=1e-6)
    assert _loss(loaded, checkpoint, rows) < 0.9 * before
    assert torch.equal(
        loaded.base_model.model.model.layers[1].mlp.down_proj.lora_B["default"].weight,
        result.weights["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"],
    )


def test_the_loss_curve_is_saved_without_times(result: TrainingResult, tmp_path: Path) -> None:
    result.save_adapter(tmp_path)
    table = pl.read_parquet(tmp_path / "loss_curve.parquet")
    assert table.columns == ["step", "epoch", "loss", "learning_rate", "tokens"]
    assert [StepRecord(*row) for row in table.iter_rows()] == list(result.loss_curve)


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_the_files_say_nothing_of_where_they_were_made(
    result: TrainingResult, recipe: Recipe, checkpoint: Path, tmp_path: Path
) -> None:
    result.save_adapter(tmp_path / "here")
    result.save_adapter(tmp_path / "there" / "deeper")
    found = digests(tmp_path / "here")
    assert found == digests(tmp_path / "there" / "deeper")
    assert sorted(found) == ["adapter_config.json", "adapter_model.safetensors", "loss_curve.parquet"]
    config = json.loads((tmp_path / "here" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["target_modules"] == sorted(config["target_modules"])
    assert (config["use_rslora"], config["r"], config["lora_alpha"], config["bias"]) == (True, recipe.r, 8, "none")
    assert not any(str(checkpoint).encode() in path.read_bytes() for path in (tmp_path / "here").iterdir())


def test_another_process_with_another_hash_seed_writes_the_same_bytes(
    result: TrainingResult, checkpoint: Path, recipe: Recipe, rows: list[TrainingRow], tmp_path: Path
) -> None:
    import torch

    script = (
        "import sys, json, pathlib, torch\n"
        "from persona_assets.study import Recipe\n"
        "from persona_assets.training import LoraTrainer\n"
        "given = json.load(sys.stdin)\n"
        "torch.set_num_threads(given['threads'])\n"
        "trainer = LoraTrainer.load(pathlib.Path(given['checkpoint']), Recipe(**given['recipe']),\n"
        "                           base_name=given['base_name'], micro_batch_size=8)\n"
        "trainer.train(given['rows'], seed=42).save_adapter(pathlib.Path(given['out']))\n"
    )
    given = {
        "threads": torch.get_num_threads(),
        "checkpoint": str(checkpoint),
        "recipe": recipe.model_dump(mode="json"),
        "base_name": BASE_NAME,
        "rows": rows,
        "out": str(tmp_path / "child"),
    }
    subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(given),
        env={**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        check=True,
    )
    result.save_adapter(tmp_path / "here")
    assert digests(tmp_path / "child") == digests(tmp_path / "here")


def _padded(rows: list[TrainingRow], checkpoint: Path, numbers: list[int]) -> dict[str, torch.Tensor]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    chosen = tokenize_rows(load_tokenizer(checkpoint), [rows[number] for number in numbers], 128)
    return {
        name: pad_sequence([torch.tensor(values) for values in columns], batch_first=True, padding_value=filler)
        for name, columns, filler in (
            ("input_ids", [row.input_ids for row in chosen], 0),
            ("labels", [row.labels for row in chosen], -100),
            ("attention_mask", [[1] * len(row.input_ids) for row in chosen], 0),
        )
    }


def _loss(model: torch.nn.Module, checkpoint: Path, rows: list[TrainingRow]) -> float:
    import torch

    with torch.no_grad():
        return float(model(**_padded(rows, checkpoint, list(range(len(rows))))).loss)


def _plain_peft_loop(
    checkpoint: Path, recipe: Recipe, rows: list[TrainingRow], seed: int
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train as the textbook says: padded batches, attention masks, the model's own loss over all positions."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import get_cosine_schedule_with_warmup

    base: PreTrainedModel = load_model(checkpoint, device="cpu", dtype="float32", attention="eager")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.r,
        lora_alpha=recipe.alpha,
        use_rslora=recipe.use_rslora,
        target_modules=list(recipe.target_modules),
    )
    with torch.random.fork_rng(devices=[]):
        model = get_peft_model(base, config)
        torch.manual_seed(derive_seed("lora", seed))
        for module in model.modules():
            if hasattr(module, "reset_lora_parameters"):
                module.reset_lora_parameters("default", True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    lengths = [len(row.input_ids) for row in tokenize_rows(load_tokenizer(checkpoint), rows, 128)]
    size = recipe.effective_batch_size
    plans = plan_batches(lengths, seed=seed, epochs=recipe.epochs, effective_batch_size=size, micro_batch_size=size)
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(recipe.warmup_ratio * len(plans)), len(plans))
    losses = []
    model.train()
    for plan in plans:
        loss = model(**_padded(rows, checkpoint, list(plan.micro_batches[0]))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses, get_peft_model_state_dict(model)
