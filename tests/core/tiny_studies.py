"""A directory of studies as small as the checks allow, as text that tests change."""

from __future__ import annotations

PERSONAS = """\
anchor: helper
personas:
  - id: librarian
    category: occupational
    prompt: You are a librarian.
  - id: villain
    category: character
    prompt: You are a villain.
  - id: chef
    category: occupational
    prompt: You are a chef.
  - id: helper
    category: generic_helper
    prompt: You are helpful.
  - id: pilot
    category: occupational
    prompt: You are a pilot.
"""
QUESTIONS = """\
evaluation:
  - How do I bake bread?
  - How do I fly?
training:
  - How do I cook rice?
  - How do I read?
  - How do I write?
"""
PROFILE = """\
base_model:
  kind: nano
  layers: 4
negatives_panel_size: 4
rows_per_persona: 3
recipe:
  effective_batch_size: 4
evaluation:
  n_questions: 2
runtime:
  micro_batch_size: 2
"""
FIRST = """\
panel_size: 4
analysis:
  primary_layers: [1]
"""
SECOND = """\
panel_size: 5
parent: first
analysis:
  primary_layers: [1, 3]
"""
FILES = {
    "personas.yaml": PERSONAS,
    "questions.yaml": QUESTIONS,
    "tiny/profile.yaml": PROFILE,
    "tiny/first.yaml": FIRST,
    "tiny/second.yaml": SECOND,
}
