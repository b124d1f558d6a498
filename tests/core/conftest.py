"""What several tests of this room share: its helpers by name, and a small directory of studies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Worker processes import this room's task functions by name, too.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    from tiny_studies import FILES

    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path
