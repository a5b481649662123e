"""Records and cards for the tests of claims and studies."""

import math
from typing import Any

from lossatlas import records
from lossatlas.claims import judge, parse_card

PLUS_MINUS = (0.02, -0.01, 0.0, 0.01, -0.02)  # five units that differ and average to 0


def runs(values, experiment="exp", scale="laptop", seeds=None, **more):
    """Records from {(arm, noise): values by seed}; None is no run, "failed"/"diverged"/"interrupted" such a run."""
    found = []
    for (arm, noise), row in values.items():
        for i, value in enumerate(row):
            if value is None:
                continue
            record = records.Record(
                experiment,
                "paper",
                arm,
                (seeds or range(len(row)))[i],
                scale,
                condition={"noise": noise},
                **more,
            )
            if isinstance(value, str):
                record.status = value
            else:
                record.metrics = {"acc": float(value)}
            found.append(record)
    return found


def claim(check, id_="c", **more):
    """A claim on the metric acc at noise u60, unless said otherwise."""
    statistic = {"metric": "acc", "where": {"noise": "u60"}, **more.pop("statistic", {})}
    base = {"id": id_, "says": "so it is", "source": "Table 1", "experiment": "exp"}
    return {**base, "statistic": statistic, "check": check, **more}


def card(*claims, **more):
    """A card with these claims."""
    base = {
        "paper": "paper",
        "title": "A paper",
        "authors": ["A", "B"],
        "venue": "ICML",
        "year": 2023,
        "n": 5,
    }
    return parse_card({**base, "claims": list(claims), **more})


def one(check, values, **more) -> Any:
    """The verdict on a single claim; Any, because its p is None where nothing was tested."""
    return judge(card(claim(check, **more)), records.tidy(runs(values)))[0]


def around(centre, spread=1.0):
    """Five values around a centre."""
    return [centre + spread * d for d in PLUS_MINUS]


def powers(slope, noise=0.02):
    """{n: values} of five units with y = n^slope times a little noise, as {(arm, n): ...}."""
    return {
        ("a", f"n{n}"): [n**slope * math.exp(noise * ((i * k) % 5 - 2)) for i in range(5)]
        for k, n in enumerate((10, 100, 1000), 1)
    }
