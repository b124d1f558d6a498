"""Lets the figure tests share `figure_tables`: pytest's importlib mode puts no directory of tests on the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
