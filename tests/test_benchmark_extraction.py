"""The benchmark runs, and its three schemes agree: else its times would compare nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: Any) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import extraction
    import schemes
    import world

    return extraction, schemes, world


def test_the_three_schemes_agree(modules: Any, tmp_path: Path) -> None:
    _, schemes, world = modules
    spec = world.build(tmp_path / "world", world.QUICK)
    data = world.task(world.texts(12, seed=2))
    profile = world.profile(spec)
    ours = schemes.ours(spec, data, profile, tmp_path / "store")
    usual = schemes.usual(spec, data)
    authors = schemes.authors(spec, data, tmp_path / "states")
    assert len(ours) == 3 * 2 * 6
    assert ours.keys() == usual.keys() == authors.keys()
    for cell, matrix in ours.items():
        scale = matrix.max()
        np.testing.assert_allclose(matrix.toarray(), usual[cell].toarray(), atol=1e-4 * scale)
        # The authors keep float16, which moves a few activations across their thresholds.
        apart = abs(matrix - authors[cell]) > (0.02 * scale if cell[2] == 0 else 0)
        assert apart.count_nonzero() < 0.05 * matrix.nnz


def test_mean_l0_is_as_asked(modules: Any, tmp_path: Path) -> None:
    from mosaic.extract import extract

    _, _, world = modules
    spec = world.build(tmp_path / "world", world.QUICK)
    data = world.task(world.texts(40, seed=2))
    features = extract(spec, data, world.profile(spec), store=tmp_path / "store")
    for sae in spec.saes:
        l0 = features.matrix(sae.layer, sae.width, "count").sum() / features.n_tokens.sum()
        assert 0.8 * world.QUICK.mean_l0 < l0 < 1.2 * world.QUICK.mean_l0


def test_the_tables_are_printed(modules: Any, tmp_path: Path) -> None:
    extraction, _, world = modules
    times = extraction.compare_times(tmp_path / "times", world.QUICK)
    assert [line.split("|")[1].strip()[:3] for line in times.splitlines()[-3:]] == [
        "(a)",
        "(b)",
        "(c)",
    ]
    stored = extraction.compare_bytes(tmp_path / "bytes", world.QUICK, (20, 40))
    assert stored.count("\n") == 3
    assert "%" in stored
