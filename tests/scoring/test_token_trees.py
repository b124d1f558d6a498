"""Trees of tokens: the same tokens, each once, seeing exactly what stood before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_assets.scoring.replies import ScoringError
from persona_assets.scoring.token_trees import ScoredSequence, token_trees

TOKENS = st.lists(st.integers(1, 3), min_size=2, max_size=7).map(tuple)


@st.composite
def sequences(draw: st.DrawFn) -> list[ScoredSequence]:
    per_tree = draw(st.lists(st.lists(TOKENS, min_size=1, max_size=5), min_size=1, max_size=3))
    made = [
        ScoredSequence(tree, tokens, draw(st.integers(1, len(tokens) - 1))) for tree, own in enumerate(per_tree) for tokens in own
    ]
    return draw(st.permutations(made))


@given(sequences())
def test_every_scored_token_sees_what_stood_before_it_and_nothing_else(given_sequences: list[ScoredSequence]) -> None:
    trees = token_trees(given_sequences)
    width = trees.input_ids.shape[1]
    found: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for place, target, owner in zip(trees.predicting, trees.targets, trees.owner, strict=True):
        row, node = divmod(int(place), width)
        seen = [j for j in range(width) if j <= node <= trees.last_descendant[row, j]]
        assert [int(trees.positions[row, j]) for j in seen] == list(range(len(seen)))
        found.setdefault(int(owner), []).append((tuple(int(trees.input_ids[row, j]) for j in seen), int(target)))
        assert given_sequences[owner].tree == row
    for index, sequence in enumerate(given_sequences):
        ids = sequence.token_ids
        assert found[index] == [(ids[:i], ids[i]) for i in range(sequence.scored_from, len(ids))]


@given(sequences())
def test_no_beginning_is_laid_out_twice(given_sequences: list[ScoredSequence]) -> None:
    trees = token_trees(given_sequences)
    wanted = {(each.tree, each.token_ids[: i + 1]) for each in given_sequences for i in range(len(each.token_ids) - 1)}
    per_tree = [sum(tree == row for tree, _ in wanted) for row in range(len(trees.input_ids))]
    assert trees.input_ids.shape[1] == max(per_tree)
    assert [(row > 0).sum() for row in trees.input_ids] == per_tree


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ([], "no sequences"),
        ([ScoredSequence(0, (1, 2), 0)], "cannot be scored from its token 0"),
        ([ScoredSequence(0, (1, 2), 2)], "cannot be scored from its token 2"),
        ([ScoredSequence(0, (1, 2), 1), ScoredSequence(2, (1, 2), 1)], "without a gap"),
        ([ScoredSequence(1, (1, 2), 1)], "without a gap"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(bad: list[ScoredSequence], said: str) -> None:
    with pytest.raises(ScoringError, match=said):
        token_trees(bad)
