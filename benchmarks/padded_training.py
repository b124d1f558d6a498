"""LoRA training as the replaced procedure does it: padded batches, gradient checkpointing, the forward passes of peft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from persona_assets.dataset import TrainingRow
    from persona_assets.study import Recipe


def train_padded(
    model: Any,
    tokenizer: Any,
    rows: Sequence[TrainingRow],
    recipe: Recipe,
    batch_rows: int,
    on_step: Callable[[], None] = lambda: None,
) -> Any:
    """Train an adapter.

    Args:
        model: the base model.
        tokenizer: its tokenizer.
        rows: training rows.
        recipe: of the adapter.
        batch_rows: rows of a forward pass; the recipe's effective batch accumulates several.
        on_step: called after each optimizer step.

    Returns:
        The peft model.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import get_cosine_schedule_with_warmup

    lora = LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        use_rslora=recipe.use_rslora,
        target_modules=list(recipe.target_modules),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    model.train()
    tokenized = [_tokens(tokenizer, row) for row in rows]
    steps = -(-len(rows) // recipe.effective_batch_size) * recipe.epochs
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(steps * recipe.warmup_ratio), steps)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(rows)).tolist()
        for start in range(0, len(rows), recipe.effective_batch_size):
            effective = order[start : start + recipe.effective_batch_size]
            for at in range(0, len(effective), batch_rows):
                part = effective[at : at + batch_rows]
                batch = _padded([tokenized[i] for i in part], tokenizer.pad_token_id, model.device)
                (model(**batch).loss * len(part) / len(effective)).backward()
            torch.nn.utils.clip_grad_norm_(trained, recipe.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            on_step()
    return model


def _tokens(tokenizer: Any, row: TrainingRow) -> tuple[list[int], int]:
    """Token ids of a conversation, and how many of them are the prompt's."""
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False).rstrip("\n")
    encode = tokenizer.encode
    return encode(whole, add_special_tokens=False), len(encode(prompt, add_special_tokens=False))


def _padded(rows: Sequence[tuple[list[int], int]], pad: int, device: torch.device) -> dict[str, Any]:
    width = max(len(ids) for ids, _ in rows)
    batch = {
        "input_ids": [ids + [pad] * (width - len(ids)) for ids, _ in rows],
        "attention_mask": [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows],
        "labels": [[-100] * n + ids[n:] + [-100] * (width - len(ids)) for ids, n in rows],
    }
    return {name: torch.tensor(values, device=device) for name, values in batch.items()}
