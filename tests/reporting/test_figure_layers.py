from __future__ import annotations

import pytest

from persona_assets.reporting.figures.layers import span
from persona_assets.reporting.lint.figures import caption_layers


@pytest.mark.parametrize(("layers", "words"), [([0, 1, 2, 3], "0 to 3"), ([10, 15, 20], "10, 15, 20"), ([7], "7 to 7")])
def test_a_caption_names_the_layers_that_are_drawn(layers: list[int], words: str) -> None:
    assert span([{"layer": layer} for layer in layers]) == words
    assert caption_layers(f"at the layers {words}, with intervals") == set(layers)
