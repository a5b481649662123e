"""Which paper a test is counted for, and when a paper is over its budget."""

import pytest
from budget import PAPER, Budget, papers, part


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/papers/ldr/test_truths.py::test_a", "paper ldr"),
        ("tests/test_smoke.py::test_smoke[ldr_noisy-ce]", "paper ldr"),
        ("tests/test_smoke.py::test_smoke[paper/ldr_cifar100-aldr_kl]", "paper ldr"),
        ("tests/test_smoke.py::test_smoke[isogclr_cifar-default]", "paper isogclr"),
        ("tests/test_stacked_launcher.py::test_every_method[sea_real]", "paper sea_omd"),
        ("tests/test_stacked_launcher.py::test_workers_share_the_stacks", "test_stacked_launcher"),
        ("tests/data/test_loading.py::test_b", "data"),
        ("tests/test_cli.py::test_c[experiment=ldr_noise]", "test_cli"),
    ],
)
def test_a_test_is_counted_for_its_paper_or_its_part_of_the_frame(nodeid, name):
    assert part(nodeid, papers()) == name


def test_only_papers_are_over_budget():
    budget = Budget(limit=True)
    budget.seconds.update({"paper ldr": PAPER - 1, "paper dcc": PAPER + 1, "test_launch": 1000.0})
    assert budget.over() == ["paper dcc"]
    assert [line for line in budget.lines() if "over" in line] == [
        f"{PAPER + 1:8.1f} s     0 tests  paper dcc  over 45 s"
    ]
