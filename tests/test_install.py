"""The wheel: configs and cards travel in it, and it runs from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lossatlas.paths import CHECKOUT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content and nothing else, over the locked environment."""
    dist, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = dist.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=300)
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("entry_points.txt") for name in archive.namelist())
    return target


def command(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(site), "LOSSATLAS_OUTPUTS": str(folder / "out")}
    return subprocess.run(
        [sys.executable, "-m", "run", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_wheel_lists_runs_and_finds_its_cards(site, tmp_path):
    where = "import lossatlas, sys; sys.exit('site' not in lossatlas.__file__)"
    env = {**os.environ, "PYTHONPATH": str(site)}
    assert (
        subprocess.run(
            [sys.executable, "-c", where], env=env, cwd=tmp_path, timeout=60, check=False
        ).returncode
        == 0
    )
    assert "  ldr " in command(site, tmp_path).stdout
    words = ("-m", "experiment=ldr_noisy", "scale=smoke", "arm=ce,aldr_kl", "noise=u60", "seed=0,1")
    done = command(site, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "not judged: scale=smoke" in done.stdout
    assert len(list((tmp_path / "out").rglob("record.json"))) == 4
    refused = command(site, tmp_path, *words, "publish=true")
    assert refused.returncode == 2
    assert "checkout" in refused.stderr
