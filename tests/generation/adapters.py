"""Adapters with random weights, large enough to change what a tiny model says."""

from __future__ import annotations

from pathlib import Path

from persona_assets.models.loading import load_model

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_adapter(base: Path, directory: Path, seed: int, *, rank: int = 8, scale: float = 0.3) -> Path:
    """Write a peft adapter of the shape that training writes."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, use_rslora=True, target_modules=TARGETS, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(load_model(base, device="cpu", dtype="float32"), config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=scale / rank**0.5)
    adapted.save_pretrained(str(directory))
    return directory
