"""Where things are in the clone."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "book" / "runs"
