"""Token sequences as trees: what sequences have in common is computed once, in an ordinary forward pass.

Under causal attention a token's hidden state depends on what stands before it alone. Sequences that begin alike can
therefore share those tokens: each token attends to its ancestors, and its position is its depth. The nodes of a tree
are numbered in the order of its sorted sequences, which is preorder, so that a node's descendants are the numbers
that follow it without a gap: `last_descendant` says everything about the attention mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from persona_assets.scoring.replies import ScoringError

if TYPE_CHECKING:
    import numpy.typing as npt

    IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ScoredSequence:
    """A sequence to be scored.

    Attributes:
        tree: number of its tree, from 0; sequences share tokens within a tree only.
        token_ids: all of its tokens.
        scored_from: index of the first token whose probability is wanted, at least 1; from there to the end all are.
    """

    tree: int
    token_ids: tuple[int, ...]
    scored_from: int


@dataclass(frozen=True, slots=True)
class TokenTrees:
    """A batch of B trees of up to T nodes, in which P tokens are scored.

    Attributes:
        input_ids: [B, T] token ids; 0 fills short rows.
        positions: [B, T] depth of each node in its tree.
        last_descendant: [B, T] largest node number below each node; a node without children and a filler have their own.
        predicting: [P] index in [B * T] of the node after which the scored token comes.
        targets: [P] ids of the scored tokens.
        owner: [P] index of the sequence that each belongs to.
    """

    input_ids: IntArray
    positions: IntArray
    last_descendant: IntArray
    predicting: IntArray
    targets: IntArray
    owner: IntArray


def token_trees(sequences: Sequence[ScoredSequence]) -> TokenTrees:
    """Lay sequences out as trees; the last token of a sequence is only ever a target.

    Args:
        sequences: at least one; the numbers of their trees have no gap.

    Raises:
        ScoringError: no sequences, one without a token before the scored ones, or a gap in the numbers of the trees.
    """
    if not sequences:
        raise ScoringError("There are no sequences to score.")
    for sequence in sequences:
        if not 1 <= sequence.scored_from < len(sequence.token_ids):
            raise ScoringError(
                f"A sequence of {len(sequence.token_ids)} tokens cannot be scored from its token {sequence.scored_from}: "
                "there must be one before it, and it must exist."
            )
    order = sorted(range(len(sequences)), key=lambda index: (sequences[index].tree, sequences[index].token_ids))
    ordered = [sequences[index] for index in order]
    tree = np.array([sequence.tree for sequence in ordered])
    if not np.array_equal(np.unique(tree), np.arange(tree[-1] + 1)):
        raise ScoringError("The numbers of the trees must run from 0 without a gap.")
    lengths = np.array([len(sequence.token_ids) for sequence in ordered])
    depth = np.arange(lengths.max())
    tokens = np.zeros((len(ordered), len(depth)), dtype=np.int64)
    tokens[depth < lengths[:, None]] = np.concatenate([sequence.token_ids for sequence in ordered])

    is_input = depth < lengths[:, None] - 1
    alike = (tokens[1:] == tokens[:-1]) & is_input[1:] & is_input[:-1] & (tree[1:] == tree[:-1])[:, None]
    shared = np.concatenate([[0], np.cumprod(alike, axis=1).sum(axis=1)])
    new = is_input & (depth >= shared[:, None])
    numbers = np.where(new, np.cumsum(new).reshape(new.shape) - 1, -1)
    # A shared node is the one made last at its depth: the sequence before passes through it.
    nodes = np.maximum.accumulate(numbers, axis=0)

    count = int(numbers.max()) + 1
    node_tree = np.repeat(tree, new.sum(axis=1))
    first = np.searchsorted(node_tree, np.arange(tree[-1] + 1))
    local = np.arange(count) - first[node_tree]
    width = int(local.max()) + 1
    last = np.arange(count)
    leaves = nodes[np.arange(len(ordered)), lengths - 2]
    np.maximum.at(last, nodes[is_input], np.repeat(leaves, lengths - 1))

    def by_tree(values: IntArray, filler: IntArray) -> IntArray:
        rows = np.broadcast_to(filler, (len(first), width)).copy()
        rows[node_tree, local] = values
        return rows

    starts = np.array([sequence.scored_from for sequence in ordered])
    scored = (depth >= starts[:, None]) & (depth < lengths[:, None])
    row, column = np.nonzero(scored)
    before = nodes[row, column - 1]
    return TokenTrees(
        input_ids=by_tree(tokens[new], np.zeros(width, dtype=np.int64)),
        positions=by_tree(np.broadcast_to(depth, new.shape)[new], np.zeros(width, dtype=np.int64)),
        last_descendant=by_tree(last - first[node_tree], np.arange(width)),
        predicting=node_tree[before] * width + local[before],
        targets=tokens[row, column],
        owner=np.array(order)[row],
    )
