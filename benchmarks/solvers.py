"""Time and exactness of the ways to fit one training part at every C of the grid.

    python benchmarks/solvers.py            # 2, 10 and 77 classes, 1k to 1M latents; 5 minutes
    python benchmarks/solvers.py --quick    # up to 16k latents and 10 classes; half a minute

On the documents of `benchmarks/probes.py`, 1,200 of them: scikit-learn's lbfgs and newton-cg on the
features, and newton-cg on the coordinates in the span of the documents (`row_space`, its cost
included). CPU seconds on one thread; the difference is the largest of a decision value at the last
C, as a share of the largest value, against newton-cg at a tolerance a hundred times stricter.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from probes import zipf_documents
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_sample_weight
from threadpoolctl import threadpool_limits

from mosaic.probes.scaling import Matrix, Scaler, row_space
from mosaic.probes.select import SETTINGS, TOLERANCE

N_DOCS = 1200
WAYS = (("lbfgs", False), ("newton-cg", False), ("newton-cg", True))
HEADER = "| classes | d | lbfgs (s) | newton-cg (s) | in the span (s) | differences |"


def fit(
    X: Matrix, y: np.ndarray, solver: str, in_span: bool, tolerance: float = TOLERANCE
) -> tuple[float, np.ndarray]:
    """CPU seconds of the fits at all C, and the decision values of the last."""
    start = time.process_time()
    read = row_space(X)[0] if in_span else X
    weights = compute_sample_weight("balanced", y)
    model = LogisticRegression(solver=solver, max_iter=2000, tol=tolerance, warm_start=True)
    for C in SETTINGS["linear"]:
        model.set_params(C=C).fit(read, y, sample_weight=weights)
    return time.process_time() - start, np.asarray(model.decision_function(read))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 16k latents and 10 classes")
    quick = parser.parse_args().quick
    print(HEADER)
    print("|" + "---|" * 6)
    for n_classes in (2, 10) if quick else (2, 10, 77):
        for n_latents in (1024, 16_384) if quick else (1024, 16_384, 65_536, 1_048_576):
            if n_classes == 77 and n_latents > 65_536:
                continue  # minutes, and the span has won long before
            X, y = zipf_documents(N_DOCS, n_latents, seed=0)
            if n_classes > 2:
                y = np.arange(N_DOCS) % n_classes
            X = Scaler.fit(X, y).transform(X)
            with threadpool_limits(1):
                _, exact = fit(X, y, "newton-cg", False, TOLERANCE / 100)
                seconds, differences = [], []
                for solver, in_span in WAYS:
                    if in_span and X.shape[1] <= N_DOCS:
                        seconds.append("")
                        continue
                    took, said = fit(X, y, solver, in_span)
                    seconds.append(f"{took:.2f}")
                    differences.append(f"{np.abs(said - exact).max() / np.abs(exact).max():.3f}")
            cells = " | ".join(seconds)
            row = f"| {n_classes} | {n_latents:,} | {cells} | {', '.join(differences)} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
