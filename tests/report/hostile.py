"""Evidence that wants to run something, or to fill the page."""

import math
from pathlib import Path

from synthetic import write

from lossatlas.records import Record

SCRIPT = "<script>window.hit=1</script>"
IMAGE = "<img src=x onerror=window.hit=2>"
LONG = "n" * 10_000


def paper(folder: Path) -> None:
    """A paper called evil."""
    arms = ["a", SCRIPT, f"<b>{IMAGE}</b>", LONG, "c'\"&{{ 7*7 }}"]
    values = [0.5, 1e308, -1e308, math.nan, math.inf]
    found = [
        Record(
            "evil_exp", "evil", arm, seed, condition={"noise": noise}, metrics={"test/top1": value + seed / 10},
            commit=SCRIPT, device=IMAGE, config_hash=f"{i}{seed}", seconds=1e308, extras={"x": SCRIPT},
            status="failed" if seed == 2 else "done",
        )
        for i, (arm, value) in enumerate(zip(arms, values, strict=True))
        for noise in ("</script>" + SCRIPT, "u60") for seed in range(3)
    ]  # fmt: skip
    claims = [
        {"id": f"{SCRIPT}{k}", "says": IMAGE + LONG, "source": SCRIPT, "experiment": "evil_exp", "note": SCRIPT,
         "statistic": {"metric": "test/top1", "where": {"noise": "u60"}},
         "check": {"kind": "better", "arm": "a", "than": [arm], "by": 0.001}}
        for k, arm in enumerate(arms[1:])
    ]  # fmt: skip
    card = {
        "paper": "evil", "title": SCRIPT + LONG, "authors": [IMAGE], "venue": SCRIPT, "year": 2023, "n": 5,
        "url": "javascript:window.hit=3", "family": IMAGE, "idea": SCRIPT + LONG, "claims": claims,
        "figures": [{"table": SCRIPT, "what": IMAGE, "values": {SCRIPT: 1e308, IMAGE: SCRIPT}}],
        "equations": [{"tex": SCRIPT, "says": IMAGE}, {"tex": r"\text{" + IMAGE + r"} \frac{1}{2}", "source": SCRIPT}],
        "notes": [IMAGE, "[x](javascript:window.hit=4)"], "failures": [SCRIPT],
    }  # fmt: skip
    write(folder / "evil", card, found)
