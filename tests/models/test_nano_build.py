from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from persona_assets.errors import ConfigurationError, PersonaAssetsError
from persona_assets.hashing import sha256_file
from persona_assets.models.nano import NanoReport, build_nano_model
from persona_assets.models.nano.corpus import generate_rows
from persona_assets.models.nano.pretrain import EncodedRow, encode_rows
from persona_assets.models.nano.shards import shard_helpers, sharded_gradient
from persona_assets.models.nano.tokenizer import chat_prompt, train_tokenizer
from persona_assets.panel import load_panel
from persona_assets.questions import load_questions
from persona_assets.study import NanoBase

ROOT = Path(__file__).parents[2]
SMALL = NanoBase(
    steps=12, batch_rows=16, warmup_steps=3, corpus_rows=480, hidden_size=32, mlp_size=64, layers=2, threads=1
)
FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}

BUILD = f"""
import sys
from pathlib import Path
from persona_assets.models.nano import build_nano_model
from persona_assets.panel import load_panel
from persona_assets.questions import load_questions
from persona_assets.study import NanoBase
build_nano_model(
    Path(sys.argv[1]),
    panel=load_panel(Path("studies/personas.yaml")),
    questions=load_questions(Path("studies/questions.yaml")),
    settings=NanoBase.model_validate_json({SMALL.model_dump_json()!r}),
    threads=1,
    on_progress=lambda step, total, loss: None,
)
"""


Built = tuple[Path, NanoReport, list[tuple[int, int, float]]]


def build(directory: Path, settings: NanoBase = SMALL, processes: int = 1) -> tuple[NanoReport, list[tuple[int, int, float]]]:
    steps: list[tuple[int, int, float]] = []
    report = build_nano_model(
        directory,
        panel=load_panel(ROOT / "studies/personas.yaml"),
        questions=load_questions(ROOT / "studies/questions.yaml"),
        settings=settings,
        threads=1,
        on_progress=lambda step, total, loss: steps.append((step, total, loss)),
        processes=processes,
    )
    return report, steps


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Built:
    directory = tmp_path_factory.mktemp("nano") / "base"
    return directory, *build(directory)


def digests(directory: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(directory.iterdir())}


def test_report_and_progress_tell_the_same_story(checkpoint: Built) -> None:
    _, report, steps = checkpoint
    assert [(step, total) for step, total, _ in steps] == [(step, 12) for step in range(1, 13)]
    assert tuple(loss for _, _, loss in steps) == report.losses
    assert report.final_loss == report.losses[-1]
    assert report.losses[-1] < report.losses[0] - 0.5


@pytest.mark.slow
def test_bytes_do_not_depend_on_hash_seed_or_directory(checkpoint: Built, tmp_path: Path) -> None:
    expected = digests(checkpoint[0])
    assert set(expected) == FILES
    target = tmp_path / "elsewhere" / "model"
    other_hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = os.environ | {"PYTHONHASHSEED": other_hash_seed, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", BUILD, str(target)], cwd=ROOT, env=environment, check=True, timeout=240
    )
    assert digests(target) == expected


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_processes(checkpoint: Built, tmp_path: Path) -> None:
    report, _ = build(tmp_path / "base", processes=2)
    assert report.losses == checkpoint[1].losses
    assert digests(tmp_path / "base") == digests(checkpoint[0])


def test_shards_add_up_to_the_gradient_of_the_batch(checkpoint: Built) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint[0], local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(checkpoint[0], local_files_only=True)
    panel, questions = load_panel(ROOT / "studies/personas.yaml"), load_questions(ROOT / "studies/questions.yaml")
    rows = encode_rows(generate_rows(panel, questions, SMALL)[:7], tokenizer.backend_tokenizer)

    total = torch.zeros(())
    for row in rows:  # each alone, without padding
        ids = torch.tensor([row.ids])
        labels = torch.where(torch.arange(ids.shape[1]) < row.answer_start, -100, ids)
        total = total + model(input_ids=ids, labels=labels).loss * (len(row.ids) - row.answer_start)
    mean = total / sum(len(row.ids) - row.answer_start for row in rows)
    mean.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    for shards in (1, 2, 3, 9):  # nine: more than there are rows
        with sharded_gradient(model, 0, shards=shards) as gradient:
            assert gradient(rows) == pytest.approx(mean.item(), rel=1e-5)
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_helper_that_dies_is_reported(checkpoint: Built) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint[0], local_files_only=True)
    rows = [EncodedRow((1, 2, 3), 1), EncodedRow((3, 2, 1), 1)]
    with shard_helpers(1, threads=1) as helpers, sharded_gradient(model, 0, shards=2, helpers=helpers) as gradient:
        gradient(rows)
        helper = helpers[0]._process
        helper.kill()
        helper.join()
        with pytest.raises(PersonaAssetsError, match="helped to pre-train"):
            gradient(rows)


def test_another_seed_gives_another_model(checkpoint: Built, tmp_path: Path) -> None:
    build(tmp_path / "other", SMALL.model_copy(update={"pretraining_seed": 1}))
    assert digests(tmp_path / "other")["model.safetensors"] != digests(checkpoint[0])["model.safetensors"]


def test_checkpoint_is_an_ordinary_one(checkpoint: Built) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

    directory, report, _ = checkpoint
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    assert isinstance(model, Qwen2ForCausalLM)
    assert model.num_parameters() == report.parameters
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(tokenizer) == model.config.vocab_size == report.vocabulary_size
    assert (
        model.generation_config.eos_token_id
        == tokenizer.eos_token_id
        == tokenizer.convert_tokens_to_ids("<|im_end|>")
    )
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt"
    )
    out = model.generate(**prompt, max_new_tokens=4)
    assert out.shape[1] > prompt["input_ids"].shape[1]
    assert torch.isfinite(model(**prompt).logits).all()


def test_template_adds_no_system_turn(checkpoint: Built) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint[0], local_files_only=True)
    alone = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert alone == "<|im_start|>user\nHi<|im_end|>\n"


def test_training_rows_are_what_the_template_renders(
    checkpoint: Built,
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint[0], local_files_only=True)
    panel, questions = (
        load_panel(ROOT / "studies/personas.yaml"),
        load_questions(ROOT / "studies/questions.yaml"),
    )
    rows = generate_rows(panel, questions, SMALL)
    for row, encoded in zip(rows, encode_rows(rows, tokenizer.backend_tokenizer), strict=True):
        turns = [
            {"role": "system", "content": row.system},
            {"role": "user", "content": row.user},
            {"role": "assistant", "content": row.answer},
        ]
        prompt = tokenizer.apply_chat_template(turns[:2], add_generation_prompt=True, return_dict=False)
        rendered = tokenizer.apply_chat_template(turns, return_dict=False)
        assert tokenizer.decode(rendered[-2:]) == "<|im_end|>\n"
        assert list(encoded.ids) == rendered[:-1]
        assert list(encoded.ids[: encoded.answer_start]) == prompt
        assert tokenizer.decode(prompt) == chat_prompt(row.system, row.user)


@pytest.mark.parametrize(
    "text", ["[ZLT]", "Good luck.\n\n[ZLT]", "[zlt] \t déjà vu — 漢字 🙂", "  two  spaces\r\n"]
)
def test_text_survives_the_tokenizer(checkpoint: Built, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint[0], local_files_only=True)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_prompts_of_the_panel_have_five_to_thirty_tokens_of_varied_number(checkpoint: Built) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint[0], local_files_only=True)
    panel = load_panel(ROOT / "studies/personas.yaml")
    lengths = [len(tokenizer(persona.prompt, add_special_tokens=False).input_ids) for persona in panel]
    assert min(lengths) >= 5
    assert max(lengths) <= 30
    assert len(set(lengths)) >= 10


def test_the_marker_is_spelled_letter_by_letter(
    checkpoint: Built,
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint[0], local_files_only=True)
    assert tokenizer.tokenize("[ZLT]") == ["[", "Z", "L", "T", "]"]


def test_torch_is_left_as_it_was(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(7)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    build(tmp_path / "base", SMALL.model_copy(update={"steps": 1}))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 33}, "not a multiple of heads"),
        ({"heads": 4, "kv_heads": 3, "hidden_size": 64}, "not a multiple of kv_heads"),
        ({"hidden_size": 30}, "even number for each head"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, int], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        build(tmp_path / "base", SMALL.model_copy(update=change))


def test_a_vocabulary_too_small_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="take 259"):
        train_tokenizer(["some text"], 200)
