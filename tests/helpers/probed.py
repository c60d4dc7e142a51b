"""A probe trained and tested in one step, as tests of selection want it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from mosaic.data.splits import Split
from mosaic.probes.evaluate import Outcome, train
from mosaic.probes.select import Candidates, named_candidates


def evaluate(candidates: Candidates, y: np.ndarray, split: Split, **options: Any) -> Outcome:
    """`train`, then predict the test part once; `candidates` and `y` cover all documents."""
    start = time.perf_counter()
    named = named_candidates(candidates, len(y))
    fitted = train(named, y, split, **options)
    test = named[fitted.candidate].take(split.test).X
    return Outcome.of(fitted, test, y[split.test], split, time.perf_counter() - start)
