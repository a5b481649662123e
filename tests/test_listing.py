"""What there is to run: papers by family, a paper's experiments with their cost, without torch."""

import subprocess
import sys

import pytest

from lossatlas.errors import UserError
from lossatlas.listing import experiments, of_paper, overview, published


def test_every_experiment_has_a_paper_with_a_card():
    assert "without a card" not in overview()
    assert {e.name: e.paper for e in experiments()}["paper/ldr_cifar100"] == "ldr"
    assert {e.name: e.paper for e in experiments()}["isogclr_cifar"] == "isogclr"  # names none, builds on one


def test_papers_stand_under_their_family():
    lines = overview().splitlines()
    family = lines.index("classification losses")
    assert lines[family + 1].startswith("  comp_sum ")
    assert "ICML 2023" in lines[family + 2]


def test_a_run_of_many_units_counts_once(tmp_path):
    path = tmp_path / "records.csv"
    path.write_text("experiment,arm,seconds,peak_mb\ne,a,10,900\ne,a,,900\ne,a,20,950\nf,a,300,\n")
    assert published(path) == {
        "e": "2 published runs, 15.0 s each, 30 s together, up to 950 MB",
        "f": "1 published run, 300.0 s, 0 MB",
    }


def test_a_paper_lists_its_experiments_laptop_scale_first():
    lines = [line for line in of_paper("ldr").splitlines() if "experiment=" in line]
    assert lines[0].strip() == "experiment=ldr_datasets"
    assert lines[-1].strip() == "experiment=paper/ldr_kuzushiji49"


@pytest.mark.parametrize(
    ("word", "says"), [("ldrr", "did you mean ldr?"), ("ldr_noisy", "experiment=ldr_noisy")]
)
def test_another_word_gets_the_nearest_or_the_command(word, says):
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        of_paper(word)


def test_the_lists_import_no_torch():
    code = "import sys; from lossatlas.listing import *; overview(); of_paper('ldr'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "numpy"} & set(done.stdout.split())
