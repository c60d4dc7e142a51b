"""Features as a reader meets them: matrices by layer, width and pooling; refusals by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from mosaic.errors import ConfigError
from mosaic.extraction.extract import extract
from mosaic.extraction.features import Features


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Features:
    root = tmp_path_factory.mktemp("features")
    spec = tiny.model_spec(root, "gemma2", (96,))
    return extract(spec, tiny.task_data(), tiny.profile(spec), store=root / "store")


def test_shapes_and_types(features: Features) -> None:
    assert features.n_docs == len(tiny.TEXTS) == len(features.n_tokens)
    matrix = features.matrix(2, "96")
    assert matrix.shape == (features.n_docs, 96)
    assert matrix.format == "csr"
    assert matrix.dtype == np.float32
    assert matrix.has_sorted_indices
    assert features.hidden(2).shape == (features.n_docs, tiny.D_MODEL)
    assert features.hidden(2).dtype == np.float32


def test_poolings_agree_with_each_other(features: Features) -> None:
    def dense(pooling: str, **options: Any) -> np.ndarray:
        return features.matrix(2, "96", pooling, **options).toarray()

    tokens = np.maximum(features.n_tokens, 1)[:, None]
    np.testing.assert_allclose(dense("mean"), dense("sum") / tokens, rtol=1e-6)
    assert (dense("max") <= dense("sum") * (1 + 1e-6)).all()
    assert (dense("last") <= dense("max")).all()
    assert (dense("top_n", top_n=3) <= dense("top_n", top_n=8)).all()
    assert (dense("top_n", top_n=8) <= dense("count")).all()
    np.testing.assert_array_equal(dense("count", threshold=0.0), dense("sum", threshold=0.0))
    np.testing.assert_array_equal(dense("sum", threshold=1.0), dense("sum") > 1.0)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda f: f.matrix(1, "96"), "Layer 1, width '96' was not extracted; there is"),
        (lambda f: f.matrix(2, "16k"), r"width '16k' was not extracted; .*layer_2/width_96"),
        (lambda f: f.matrix(2, "96", "median"), "Unknown pooling 'median'"),
        (lambda f: f.matrix(2, "96", "top_n", top_n=20), r"top_n=20 was not .*\(3, 8\)"),
        (lambda f: f.hidden(7), "Layer 7 was not extracted"),
        (lambda f: f.hidden(2, "sum"), "Unknown pooling of hidden states 'sum'"),
    ],
)
def test_what_was_not_extracted_is_named(features: Features, ask: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ask(features)


def test_features_whose_store_was_emptied_say_so(tmp_path: Path) -> None:
    spec = tiny.model_spec(tmp_path / "m", widths=())
    features = extract(spec, tiny.task_data(["a"]), tiny.profile(spec), store=tmp_path / "s")
    for path in (tmp_path / "s").rglob("manifest.json"):
        path.unlink()
    with pytest.raises(ConfigError, match="is gone from .*; run the extraction again"):
        features.hidden(0)
