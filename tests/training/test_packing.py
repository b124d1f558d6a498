"""Packed rows give what transformers gives for padded ones, forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from persona_assets.models.loading import load_model, load_tokenizer
from persona_assets.training.packing import ATTENTION, pack_rows, register_attention
from persona_assets.training.tokenizing import IGNORED_LABEL, TokenizedRow, tokenize_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from persona_assets.dataset import TrainingRow

ABC = TokenizedRow((5, 6, 7), (IGNORED_LABEL, 6, 7))
ABD = TokenizedRow((5, 6, 8), (IGNORED_LABEL, 6, 8))
AXCYZ = TokenizedRow((5, 9, 7, 1, 2), (IGNORED_LABEL, IGNORED_LABEL, 7, 1, 2))


def test_a_shared_prefix_is_there_once() -> None:
    import torch

    packed = pack_rows([ABC, ABD, AXCYZ], share_prefixes=True, device=torch.device("cpu"))
    assert packed.input_ids.tolist() == [[5, 6, 9, 7, 1]]
    assert packed.position_ids.tolist() == [[0, 1, 1, 2, 3]]
    # Four positions for each row; the padding of the first two points at token 0.
    assert packed.gather.tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 3, 4]
    assert packed.scatter.tolist() == [0, 1, 9, 10, 11]
    assert packed.predicting.tolist() == [0, 1, 0, 1, 2, 3, 4]
    assert packed.targets.tolist() == [6, 7, 6, 8, 7, 1, 2]


def test_without_sharing_each_row_has_its_own_tokens() -> None:
    import torch

    packed = pack_rows([ABC, ABD], share_prefixes=False, device=torch.device("cpu"))
    assert packed.input_ids.tolist() == [[5, 6, 5, 6]]
    assert packed.gather.tolist() == [0, 1, 2, 3]
    assert packed.predicting.tolist() == [0, 1, 2, 3]
    assert packed.targets.tolist() == [6, 7, 6, 8]


@pytest.mark.parametrize("share_prefixes", [True, False])
def test_loss_and_gradients_are_those_of_padded_rows(checkpoint: Path, rows: list[TrainingRow], share_prefixes: bool) -> None:
    import torch

    tokenized = tokenize_rows(load_tokenizer(checkpoint), rows, max_length=128)
    reference = load_model(checkpoint, device="cpu", dtype="float32", attention="eager")
    expected = _padded_loss(reference, tokenized)
    expected.backward()

    register_attention()
    model = load_model(checkpoint, device="cpu", dtype="float32")
    model.set_attn_implementation(ATTENTION)
    packed = pack_rows(tokenized, share_prefixes=share_prefixes, device=torch.device("cpu"))
    n_tokens = sum(len(row.input_ids) - 1 for row in tokenized)
    n_packed = packed.input_ids.numel()
    assert n_packed < 0.75 * n_tokens if share_prefixes else n_packed == n_tokens
    hidden = model.model(input_ids=packed.input_ids, position_ids=packed.position_ids, packed=packed, use_cache=False)
    logits = model.lm_head(hidden.last_hidden_state[0, packed.predicting])
    loss = torch.nn.functional.cross_entropy(logits, packed.targets)
    loss.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def _padded_loss(model: PreTrainedModel, rows: list[TokenizedRow]) -> torch.Tensor:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids, labels, mask = (
        pad_sequence([torch.tensor(values) for values in columns], batch_first=True, padding_value=filler)
        for columns, filler in (
            ([row.input_ids for row in rows], 0),
            ([row.labels for row in rows], IGNORED_LABEL),
            ([[1] * len(row.input_ids) for row in rows], 0),
        )
    )
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert isinstance(loss, torch.Tensor)
    return loss
