"""Helper modules of this room."""

from __future__ import annotations

import sys
from pathlib import Path

# pytest's importlib mode leaves the directory of a helper module off the path.
sys.path.insert(0, str(Path(__file__).parent))
