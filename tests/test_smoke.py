"""Every experiment x arm in scale=smoke, found by reading conf/experiment: a new paper is tested by being listed."""

import json

import pytest
import yaml

from lossatlas.paths import conf_dir

ROOT = conf_dir() / "experiment"


def arms() -> list[tuple[str, str]]:
    """(experiment, arm) of every experiment file; a paper/ file without arms of its own takes its default one."""
    found = []
    for path in sorted(ROOT.rglob("*.yaml")):
        name = path.relative_to(ROOT).with_suffix("").as_posix()
        loaded = yaml.safe_load(path.read_text())
        found += [(name, arm) for arm in loaded.get("arms") or [""]]
    return found


@pytest.mark.parametrize(("experiment", "arm"), arms(), ids=lambda value: value or "default")
def test_smoke(cli, outputs, experiment, arm):
    answer = cli(
        f"experiment={experiment}",
        "scale=smoke",
        *([f"arm={arm}"] if arm else []),
        "callbacks.progress=false",
    )
    assert answer.code == 0, answer.err
    (path,) = outputs.glob(f"{experiment}/smoke/*/record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "done"
    assert record["metrics"] or record["units"]
    assert (path.parent / "last.ckpt").exists()
