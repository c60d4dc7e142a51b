"""What the paper's full grid costs, by the formulas of `mosaic.extraction.cost`.

`python benchmarks/paper_cost.py --out book/paper_cost.csv` reads shapes and row counts only; no
text, no weight, no network. A document counts 64 tokens; probes are
priced by `mosaic.sweep.cost`. Tasks whose number of rows the catalogue
does not know are left out, and so are models that then have no document.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace

import pandas as pd

H200_PEAK, H200_TF32 = 989e12, 495e12
"""Dense bfloat16 and TF32 FLOP/s of one H200 as its maker states them; SAEs run in TF32."""


def cost_table() -> pd.DataFrame:
    """One row a model of the `paper` profile, and one for all of them."""
    from mosaic.config.profiles import load_profile
    from mosaic.extraction.cost import SHARE_OF_PEAK, all_tasks, estimate
    from mosaic.sweep.cost import probe_seconds

    profile = replace(load_profile("paper"), data_dir=None)
    tasks = [profile.task(key) for key in all_tasks(profile)]
    counted = sum(task.rows is not None for task in tasks)
    share, known = SHARE_OF_PEAK["cuda"], [task for task in tasks if task.rows is not None]
    uncapped = replace(profile, n_train=None)
    rows = [
        {
            "model": cost.model,
            "tasks": f"{counted} of {len(tasks)}",
            "documents": cost.documents,
            "million_tokens": round(cost.tokens / 1e6, 2),
            "PFLOP": round((cost.flops + cost.sae_flops) / 1e15, 1),
            "SAEs_PFLOP": round(cost.sae_flops / 1e15, 1),
            "H200_hours": round(
                (cost.flops / H200_PEAK + cost.sae_flops / H200_TF32) / share / 3600, 3
            ),
            "host_GB": round(cost.host_bytes / 1e9, 1),
            "probe_CPU_hours": round(
                probe_seconds(profile, profile.model(cost.model), known) / 3600, 1
            ),
            "without_cap": round(
                probe_seconds(uncapped, profile.model(cost.model), known) / 3600, 1
            ),
            "download_GB": round(cost.download_bytes / 1e9, 1),
            "stored_GB": round(cost.disk_bytes / 1e9, 1),
        }
        for cost in estimate(profile)
        if cost.documents
    ]
    table = pd.DataFrame(rows)
    total = table.drop(columns=["model", "tasks"]).sum().round(3).to_dict()
    total["host_GB"] = table["host_GB"].max()
    table.loc[len(table)] = {"model": "all", "tasks": table["tasks"].iloc[0], **total}
    return table.astype({"documents": int})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="CSV file; none prints it")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the Hub's client
    text = cost_table().to_csv(index=False, lineterminator="\n")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
