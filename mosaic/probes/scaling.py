"""Feature scaling that is fitted on one training part and never makes a sparse matrix dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from mosaic.errors import ConfigError, IntegrityError
from mosaic.scores.choose import level

SCALINGS = ("auto", "none", "max", "std")

Matrix = Any
"""`scipy.sparse.csr_array` or `np.ndarray`, `[n_docs, n_features]`; scipy ships no types."""


@dataclass(frozen=True, eq=False)
class Scaler:
    """Which features of a training part are used, and in which unit.

    - `max`: each feature divided by its largest absolute training value, so binary features stay
      binary and rare latents are not blown up; the default for sparse features.
    - `std`: divided by the standard deviation, after centring where the matrix is dense; the
      default for dense features.
    - `none`: the proportions between features stay as they are.

    All three end with one common factor that gives training rows a mean square length of 1, so
    that one grid of C fits every width and pooling (ours). Features without a non-zero training
    value are dropped: their weight would be exactly zero, and at a width of 1M they are most of
    the cost.
    """

    columns: np.ndarray
    """`[n_used]` positions of the features that are used."""
    scale: np.ndarray
    """`[n_used]`, what a feature is divided by."""
    center: np.ndarray | None
    """`[n_used]`, what is subtracted first (dense `std` only)."""

    @classmethod
    def fit(cls, X: Matrix, y: np.ndarray, scaling: str = "auto", k: int | None = None) -> Scaler:
        """Learn the scale from training rows `X [n_train, n_features]` with labels `y`.

        With `k`, only the k features are kept whose scaled class means differ most: the largest
        gap between the mean inside a class and outside it (the paper's top-k selection; formula
        ours). Raises ConfigError for an unknown scaling or a training part without features,
        IntegrityError for values that are not finite.
        """
        if scaling not in SCALINGS:
            raise ConfigError(f"Unknown scaling {scaling!r}; use one of {SCALINGS}.")
        if scaling == "auto":
            scaling = "max" if sparse.issparse(X) else "std"
        if not np.isfinite(X.data if sparse.issparse(X) else X).all():
            raise IntegrityError(
                f"The features of {X.shape[0]} training documents hold NaN or infinite values; "
                f"extract them again, in float32 or bfloat16 if the model ran in float16."
            )
        columns = (
            np.flatnonzero(np.bincount(X.indices[X.data != 0], minlength=X.shape[1]))
            if sparse.issparse(X)
            else np.flatnonzero(X.any(axis=0))
        )
        if not len(columns):
            raise ConfigError(
                f"No feature is active in {X.shape[0]} training documents ({X.shape[1]} features);"
                f" lower the threshold or choose another layer, width or pooling."
            )
        part = X[:, columns]
        center = None
        if scaling == "none":
            scale = np.ones(len(columns))
        elif scaling == "max":
            scale = MaxAbsScaler().fit(part).scale_
        else:
            fitted = StandardScaler(with_mean=not sparse.issparse(X)).fit(part)
            scale, center = fitted.scale_, fitted.mean_ if not sparse.issparse(X) else None
        scaler = cls(columns, scale, center)
        scaled = scaler.transform(X)
        if k is not None:
            kept = _most_different(scaled, y, k)
            scaler = cls(columns[kept], scale[kept], None if center is None else center[kept])
            scaled = scaled[:, kept]
        squares = scaled.data if sparse.issparse(scaled) else scaled
        length = np.sqrt(np.square(squares, dtype=np.float64).sum() / X.shape[0])
        # Features that are constant in the training part are all zero once centred.
        return cls(scaler.columns, scaler.scale * (length or 1.0), scaler.center)

    def transform(self, X: Matrix) -> Matrix:
        """Scaled copy `[n_docs, n_used]`; CSR in, CSR out."""
        part = X[:, self.columns]
        if sparse.issparse(part):
            part = sparse.csr_array(part, dtype=np.result_type(part.dtype, np.float32))
            part.data /= self.scale[part.indices]
            return part
        centred = part if self.center is None else part - self.center
        return centred / self.scale

    def unscale(self, coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same linear function in the original units: `coef [n_rows, n_used]`."""
        raw = coef / self.scale
        if self.center is not None:
            intercept = intercept - raw @ self.center
        return raw, intercept


def row_space(X: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates `[n_docs, n_docs]` of the rows in a basis of their own span, and what leads back.

    The optimum of a penalised linear model lies in the span of its training rows, so a fit on the
    coordinates is the fit on `X` `[n_docs, n_features]`, with as many weights per class as there
    are documents: `coef @ (back @ X)` are the weights of the features.
    """
    gram = X @ X.T
    gram = np.asarray(gram.toarray() if sparse.issparse(gram) else gram, dtype=np.float64)
    squares, vectors = np.linalg.eigh(gram)
    kept = squares > 1e-10 * squares[-1]
    lengths = np.sqrt(squares[kept])
    return vectors[:, kept] * lengths, (vectors[:, kept] / lengths).T


def narrow(X: Matrix) -> Matrix:
    """The same matrix with 32-bit indices where it is sparse: trees read no others."""
    if not sparse.issparse(X):
        return X
    indices, indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return sparse.csr_array((X.data, indices, indptr), shape=X.shape)


def _most_different(X: Any, y: np.ndarray, k: int) -> np.ndarray:
    """Sorted positions of the k features with the largest one-against-rest difference of means.

    Of features that are level to rounding the first are kept.
    """
    classes = np.unique(y)
    inside = (y[:, None] == classes).astype(np.float64)
    sums = np.asarray(X.T @ inside)
    counts = inside.sum(axis=0)
    rest = (sums.sum(axis=1, keepdims=True) - sums) / (len(y) - counts)
    gap = np.abs(sums / counts - rest).max(axis=1)
    return np.sort(np.argsort(-level(gap), kind="stable")[:k])
