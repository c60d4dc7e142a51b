"""The benchmark runs, and its three schemes agree: else its times would compare nothing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from places import ROOT
from scipy.sparse import csr_array

BENCHMARKS = ROOT / "benchmarks"


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
    from mosaic.extraction.extract import extract

    _, _, world = modules
    spec = world.build(tmp_path / "world", world.QUICK)
    data = world.task(world.texts(40, seed=2))
    features = extract(spec, data, world.profile(spec), store=tmp_path / "store")
    for sae in spec.saes:
        l0 = features.matrix(sae.layer, sae.width, "count").sum() / features.n_tokens.sum()
        assert 0.8 * world.QUICK.mean_l0 < l0 < 1.2 * world.QUICK.mean_l0


def test_times_say_how_far_the_outputs_are_apart(modules: Any, tmp_path: Path) -> None:
    extraction, _, world = modules
    times = extraction.compare_times(tmp_path, world.QUICK)
    assert [name[:3] for name in times["scheme"]] == ["(a)", "(b)", "(c)"]
    assert times["times_ours"].iloc[0] == times["times_ours_cpu"].iloc[0] == 1
    assert times["counts_apart"].iloc[0] == 0
    assert times["counts_differing"].iloc[0].startswith("0 of ")


def test_the_largest_difference_is_found_in_sums_and_in_counts(modules: Any) -> None:
    extraction, _, _ = modules
    one = {
        (0, "4", n, above): csr_array(np.array([[4.0, 0, 2, 1]]))
        for n in (0, 20)
        for above in (False, True)
    }
    other = {cell: matrix.copy() for cell, matrix in one.items()}
    other[0, "4", 0, False] = csr_array(np.array([[4.0, 0, 2, 3]]))
    other[0, "4", 20, False] = csr_array(np.array([[4.0, 3, 2, 0]]))
    found = extraction.difference(one, other)
    assert found == {"sums_apart": "5e-01", "counts_apart": 3, "counts_differing": "2 of 9"}


def test_the_pass_alone_is_measured_against_the_matrix_product(
    modules: Any, tmp_path: Path
) -> None:
    extraction, _, world = modules
    row = extraction.stages.one_pass(tmp_path, world.QUICK).iloc[0]
    texts = world.texts(world.QUICK.n_docs, seed=2)
    assert row["tokens"] == sum(len(text.split()) for text in texts[5:])  # five warm up
    assert row["dtype"] == "float32"
    assert 0 < row["share_of_peak"] < 1
    big = world.GEMMA_2_2B
    assert (big.d_model, big.d_ff, big.d_head, big.layers) == (2304, 9216, 256, (5, 12, 19))


def test_stages_add_up_and_padding_is_counted(modules: Any, tmp_path: Path) -> None:
    extraction, _, world = modules
    table = extraction.stages.by_stage(tmp_path, world.QUICK, (4096, 64))
    for _, rows in table.groupby("budget"):
        parts, whole = rows["seconds"][:-1], rows["seconds"].iloc[-1]
        assert (parts >= 0).all()
        assert parts.sum() == pytest.approx(whole, abs=0.05)
        assert 0 < rows["share_of_gemm"].iloc[-1] < 1
    few, many = table.groupby("budget")["padding"].first()
    assert 0 <= few < many, "batches of 64 positions pad less than batches of 4,096"


def run(extraction: Any, monkeypatch: Any, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["extraction.py", *words])
    extraction.main()


def test_tables_are_printed_and_written(
    modules: Any, monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    run(modules[0], monkeypatch, "--quick", "--only", "bytes", "--out", str(tmp_path))
    assert capsys.readouterr().out.strip().startswith("| tokens_a_text | ours_kb_a_text |")
    (file,) = tmp_path.iterdir()
    assert file.name == "extraction_bytes.csv"
    assert pd.read_csv(file)["tokens_a_text"].tolist() == [20, 40]


def test_without_a_gpu_its_table_is_refused_in_one_sentence(modules: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"needs a CUDA device and there is none here; run it"):
        run(modules[0], monkeypatch, "--only", "gpu")


def test_every_kind_of_interval_has_its_coverage_in_the_table(monkeypatch: Any) -> None:
    """The shipped table has each kind, each inside; the interval over tasks is simulated again."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    coverage = importlib.import_module("coverage")

    table = pd.read_csv(ROOT / "book" / "coverage.csv")
    assert set(table["as in"]) == {
        *(design.where for design in coverage.DESIGNS),
        *(f"{mean.where} (skewness {mean.skew:g})" for mean in coverage.TASK_MEANS),
    }
    inside = table["coverage"].between(*coverage.WANTED)
    assert list(table["within .92 to .98"] == "yes") == list(inside)
    tasks = table["interval of"].str.endswith("tasks")
    assert inside.all(), "no exception: an interval of 95% holds the truth .92 to .98 of the time"
    means = [mean for mean in coverage.TASK_MEANS if mean.of == "tasks"]
    for mean, shipped in zip(means, table["coverage"][tasks], strict=True):
        again = coverage.row_of_tasks(mean, 400)["coverage"]
        assert again == pytest.approx(shipped, abs=0.04), mean.where
