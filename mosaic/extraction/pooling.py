"""Pooling: from the stored statistics of a document's latents to one number per latent.

A shard holds its (document, latent) pairs as CSR rows, packed as `encode.compress` says.
"""

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_array

from mosaic.config.choices import POOLINGS
from mosaic.errors import ConfigError

ARRAYS = {
    "sum": ("sum",),
    "mean": ("sum", "n_tokens"),
    "max": ("sum", "count", "max"),
    "last": ("sum", "last", "last_at"),
    "count": ("count",),
}
"""Stored arrays each pooling reads, besides `latent` and `indptr`; `top_n` reads `top_<n>`."""


def arrays_for(pooling: str, top_n: int | None, stored_top_n: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the stored arrays that `pooling` reads. Raises ConfigError for what is not there."""
    if pooling not in POOLINGS:
        raise ConfigError(f"Unknown pooling {pooling!r}; use one of {POOLINGS}.")
    if (pooling == "top_n") != (top_n is not None):
        raise ConfigError(
            f"Pooling {pooling!r} with top_n={top_n!r}: `top_n` goes with pooling 'top_n' only."
        )
    if pooling != "top_n":
        return ("indptr", "latent", *ARRAYS[pooling])
    if top_n not in stored_top_n:
        raise ConfigError(
            f"top_n={top_n!r} was not extracted; there is {stored_top_n}. Choose one of these, or "
            f"add it to `top_n` in the profile."
        )
    return ("indptr", "latent", f"top_{top_n}")


def pool(
    arrays: Mapping[str, np.ndarray], pooling: str, d_sae: int, threshold: float | None
) -> csr_array:
    """One pooled number per document and latent, `[n_docs, d_sae]` float32.

    `arrays` are those of `arrays_for`. With a `threshold` v the result is 1 where the number is
    above v (strictly, as in the authors' code) and 0 elsewhere. Raises ConfigError when v < 0.
    """
    if threshold is not None and not threshold >= 0:
        raise ConfigError(f"Threshold {threshold!r} must not be negative: absent latents are 0.")
    values = _values(arrays, pooling).astype(np.float32)
    if threshold is not None:
        values = (values > threshold).astype(np.float32)
    indices, indptr = arrays["latent"].astype(np.int32), arrays["indptr"].copy()
    matrix = csr_array((values, indices, indptr), shape=(len(indptr) - 1, d_sae))
    matrix.eliminate_zeros()  # in place, hence the copies
    return matrix


def _values(arrays: Mapping[str, np.ndarray], pooling: str) -> np.ndarray:
    if pooling == "top_n":
        return next(values for name, values in arrays.items() if name.startswith("top_"))
    if pooling == "count":
        return arrays["count"]
    values = arrays["sum"].copy()
    if pooling == "mean":
        values /= np.repeat(arrays["n_tokens"], np.diff(arrays["indptr"]))
    elif pooling == "max":
        values[arrays["count"] > 1] = arrays["max"]
    elif pooling == "last":
        values[:] = 0
        values[arrays["last_at"]] = arrays["last"]
    return values
