"""How far the scores of a run are the same on another kind of processor.

Run a profile twice, once with the kernels of another processor, and compare the score tables:

    mosaic run --build-dir here
    ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Haswell \\
      MKL_ENABLE_INSTRUCTIONS=SSE4_2 mosaic run --build-dir there
    python benchmarks/across_cpus.py here there --out book

Writes `across_cpus.csv`: per chapter the rows of both, how many differ in macro-F1, by how much at
most, and in how many rows that is more than two test documents could make.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from mosaic.scores.table import read_scores

MEASURED = ("macro_f1", "macro_f1_low", "macro_f1_high", "accuracy", "cv_accuracy", "seconds")


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="build folder of a run")
    parser.add_argument("second", type=Path, help="build folder of the same run elsewhere")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of across_cpus.csv")
    args = parser.parse_args()
    runs = [folder / "runs" / args.profile / "scores" for folder in (args.first, args.second)]
    rows = [compare(path, runs[1] / path.name) for path in sorted(runs[0].glob("*.csv"))]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    table.to_csv(args.out / "across_cpus.csv", index=False, lineterminator="\n")


def compare(first: Path, second: Path) -> dict[str, object]:
    """One chapter's row of the table."""
    tables = [read_scores(path) for path in (first, second)]
    names = [name for name in tables[0] if name not in (*MEASURED, "n_features")]
    kept = [table.drop_duplicates(names) for table in tables]
    both = kept[0].merge(kept[1], on=names, suffixes=("", "_there"))
    gap = (both["macro_f1"] - both["macro_f1_there"]).abs().astype(float)
    return {
        "chapter": first.stem,
        "rows": len(both),
        "rows that differ": int((gap > 1e-9).sum()),
        "largest difference": round(float(gap.max()), 4),
        "by more than two documents": int((gap > 2.5 / both["n_test"].astype(float)).sum()),
    }


if __name__ == "__main__":
    main()
