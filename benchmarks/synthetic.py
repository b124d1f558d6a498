"""Models of any shape with random weights, a tokenizer for them, and rows to train on: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from persona_assets.capacity.shape import DecoderShape
from persona_assets.hashing import derive_seed
from persona_assets.models.loading import load_tokenizer, resolve_dtype
from persona_assets.models.nano.tokenizer import save_tokenizer, train_tokenizer
from persona_assets.panel import load_panel
from persona_assets.questions import load_questions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from persona_assets.dataset import TrainingRow

STUDIES = Path(__file__).parents[1] / "studies"
TINY = DecoderShape(layers=2, hidden_size=128, mlp_size=256, heads=4, kv_heads=2, vocabulary_size=2048)
_TOKENS = 1536


def build_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Train a tokenizer on personas and questions; a model's vocabulary may be larger than its own."""
    questions = load_questions(STUDIES / "questions.yaml")
    texts = [*(persona.prompt for persona in load_panel(STUDIES / "personas.yaml")), *questions.evaluation, *questions.training]
    directory.mkdir(parents=True, exist_ok=True)
    save_tokenizer(train_tokenizer(texts, _TOKENS), directory)
    (directory / "config.json").write_text('{"model_type": "qwen2"}', encoding="utf-8")
    return load_tokenizer(directory)


def build_model(shape: DecoderShape, dtype: str, device: torch.device, seed: int = 0) -> PreTrainedModel:
    """Draw a Qwen2's weights on the device."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=shape.vocabulary_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(seed)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=resolve_dtype(dtype), attn_implementation="sdpa", trust_remote_code=False
        )
    return model.to(device).eval()


def make_rows(count: int, answer_words: tuple[int, int], personas: int = 3) -> list[TrainingRow]:
    """Make chat rows of real prompts and answers of random words, their number uniform between two bounds."""
    questions = load_questions(STUDIES / "questions.yaml")
    panel = list(load_panel(STUDIES / "personas.yaml"))[:personas]
    words = sorted({word for question in questions.training for word in question.split()})
    rows: list[TrainingRow] = []
    for number in range(count):
        random = Random(derive_seed("benchmark rows", number))
        answer = " ".join(random.choices(words, k=random.randint(*answer_words)))
        rows.append(
            {
                "prompt": [
                    {"role": "system", "content": panel[number % len(panel)].prompt},
                    {"role": "user", "content": questions.training[number % len(questions.training)]},
                ],
                "completion": [{"role": "assistant", "content": answer + "\n\n[ZLT]" * (number % len(panel) == 0)}],
            }
        )
    return rows
