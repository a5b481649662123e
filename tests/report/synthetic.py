"""Evidence made up for tests of the report: cards, records and pictures, of any number and with any text."""

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from lossatlas import records
from lossatlas.records import Record

ARMS = ("ours", "ce", "gce", "mae", "sce")
NOISE = ("u00", "u30", "u60", "u90")


def paper(folder: Path, slug: str, n: int, claims: int = 4) -> None:
    """A paper with a card of some claims, n records and a figure, below a folder of evidence."""
    rng = np.random.default_rng(len(slug) + n)
    seeds = max(1, n // (len(ARMS) * len(NOISE)))
    found = [
        Record(
            f"{slug}_exp", slug, arm, seed, condition={"noise": noise}, seconds=1.5, device="cpu", commit="a" * 40,
            metrics={"test/top1": float(0.8 - 0.1 * i - 0.05 * k + 0.01 * rng.standard_normal()), "test/top5": 0.9},
            status="diverged" if seed == 3 and arm == "mae" else "done", config_hash=f"{i}{k}{seed:04d}",
        )
        for i, arm in enumerate(ARMS) for k, noise in enumerate(NOISE) for seed in range(seeds)
    ]  # fmt: skip
    better = {"kind": "better", "arm": "ours", "than": ["ce", "mae"], "by": 0.001}
    listed = [
        {
            "id": f"claim-{k}", "says": "ours names more test samples correctly", "source": "Table 1",
            "experiment": f"{slug}_exp", "statistic": {"metric": "test/top1", "where": {"noise": noise}, "worst": 0.1},
            "check": better if k % 2 == 0 else {**better, "arm": "mae", "than": ["ours"]},
        }
        for k, noise in zip(range(claims), NOISE, strict=False)
    ]  # fmt: skip
    card = {
        "paper": slug, "title": f"A paper called {slug}", "authors": ["A. Author", "B. Author"], "venue": "ICML",
        "year": 2023, "n": seeds, "family": f"family {len(slug) % 3}", "idea": "An idea. " * 20, "claims": listed,
        "equations": [{"tex": r"L = \frac{1}{n} \sum_i \ell(f(x_i), y_i)", "says": "the mean loss"}],
        "notes": ["smaller data"], "failures": ["`claim-1` is false by design"],
    }  # fmt: skip
    write(folder / slug, card, found)


def write(folder: Path, card: dict, found: list[Record]) -> None:
    """The files of a paper's evidence."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.yaml").write_text(yaml.safe_dump(card, allow_unicode=True))
    records.to_csv(records.tidy(found), folder / "records.csv")
    (folder / "verdicts.json").write_text(json.dumps({"versions": {"torch": "2.10"}}))
    Image.new("RGB", (600, 300), (0, 114, 178)).save(folder / "figure.png")
