"""Chooses tuned values from the runs of `-m experiment=NAME +grid=tune` and writes the tuning table.

For every arm and condition the run with the highest val/top1 wins (noisy validation fold, seeds 100 to 999;
the first in the grid's order at a tie), or, with --lowest, the one whose --metric has the lowest mean over seeds.
Prints YAML for the experiment's `tuned:` and writes tuning.csv.

Usage: python scripts/tuned.py NAME [--outputs outputs] [--scale laptop] [--condition noise] [--keys lr theta]
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from lossatlas import records
from lossatlas.paths import experiments_dir


def main() -> int:
    """Reads the records, prints the chosen values, writes experiments/<paper>/tuning.csv."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--scale", default="laptop")
    parser.add_argument(
        "--condition", default="noise", help="the key that values are chosen for, besides the arm"
    )
    parser.add_argument("--keys", nargs="+", default=["lr", "theta"], help="top-level keys that were tuned")
    parser.add_argument("--metric", default="val/top1", help="larger is better, or smaller with --lowest")
    parser.add_argument("--lowest", action="store_true")
    parser.add_argument(
        "--worst", type=float, help="what a diverged run counts with; infinitely bad without it"
    )
    args = parser.parse_args()
    folder = args.outputs / args.experiment / args.scale
    found = [r for r in records.read_all(folder) if 100 <= r.seed < 1000 and r.condition]
    if not found:
        print(
            f"no tuning runs below {folder}: python -m run -m experiment={args.experiment} +grid=tune",
            file=sys.stderr,
        )
        return 2
    for record in found:  # what was tuned stands in the resolved config, also where an arm's grid left it out
        shared = {args.condition: record.condition.get(args.condition, "all")}
        record.condition = {**shared, **{key: record.config[key] for key in args.keys}}
        record.extras = {}
    table: Any = records.tidy(found)  # pandas' own hints do not follow a groupby
    table = table.drop(
        columns=[
            c
            for c in records.metric_columns(table)
            if c.startswith(("test/", "lambda/")) and c != args.metric
        ]
    )
    table = table.sort_values(["arm", args.condition, *args.keys, "seed"], kind="stable")
    records.to_csv(table, experiments_dir() / found[0].paper / f"tuning_{args.experiment}.csv")
    sign = -1.0 if args.lowest else 1.0
    worst = float("-inf") if args.worst is None else sign * args.worst
    values = table.assign(**{args.metric: (sign * table[args.metric]).fillna(worst)})
    mean = values.groupby(["arm", args.condition, *args.keys], sort=False)[args.metric].mean().reset_index()
    best = mean.loc[mean.groupby(["arm", args.condition], sort=False)[args.metric].idxmax()]
    print("tuned:")
    for arm, rows in best.groupby("arm", sort=False):
        cells = (
            f"{row[args.condition]}: {{{', '.join(f'{key}: {row[key]}' for key in args.keys)}}}"
            for _, row in rows.iterrows()
        )
        print(f"  {arm}: {{{', '.join(cells)}}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
