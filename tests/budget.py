"""Processor seconds of the tests, summed by paper and by part of the frame (`make budget` holds papers to theirs).

A test's seconds are those of its process and of the children it waited for, set-up and tear-down included, so they do
not depend on what else the machine does; fixtures shared by several tests count for the first.
"""

import os
import re
from collections import defaultdict
from collections.abc import Generator, Iterable

import pytest

from lossatlas.listing import experiments

PAPER = 45.0  # processor seconds a paper may cost: its truths and the smoke of its experiments
BY_EXPERIMENT = (
    "tests/test_smoke.py",
    "tests/test_stacked_launcher.py",
)  # their parameter names an experiment


def spent() -> float:
    """Processor seconds of this process and its children so far."""
    return sum(os.times()[:4])


def papers() -> dict[str, str]:
    """Paper of each experiment, by the experiment's name (`ldr_noisy`, `paper/ldr_cifar100`)."""
    return {experiment.name: experiment.paper for experiment in experiments()}


def part(nodeid: str, papers: dict[str, str]) -> str:
    """What a test is counted for: `paper <slug>` or the file or folder of the frame.

    >>> part("tests/papers/ldr/test_truths.py::test_a", {})
    'paper ldr'
    >>> part("tests/test_smoke.py::test_every_arm[ldr_noisy-ce]", {"ldr_noisy": "ldr"})
    'paper ldr'
    >>> part("tests/data/test_loading.py::test_b", {})
    'data'
    >>> part("tests/test_cli.py::test_c", {})
    'test_cli'
    """
    path, _, test = nodeid.partition("::")
    if path.startswith("tests/papers/"):
        return f"paper {path.split('/')[2]}"
    if path in BY_EXPERIMENT and (match := re.search(r"\[(.+)\]$", test)):
        words = [word for word in re.split(r"[-\s]", match[1]) if word in papers]
        if words:
            return f"paper {papers[words[0]]}"
    first = path.removeprefix("tests/").split("/")[0]
    return first.removesuffix(".py")


class Budget:
    """Sums what the workers report.

    Args:
        limit: papers over their budget fail the session.
        paper: the one whose tests are run; "": all.
        core: only what belongs to no paper.
    """

    def __init__(self, limit: bool, paper: str = "", core: bool = False) -> None:
        self.papers, self.limit, self.paper, self.core = papers(), limit, paper, core
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.tests: defaultdict[str, int] = defaultdict(int)
        self.began = 0.0

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        if self.paper and self.paper not in {*self.papers.values()}:
            raise pytest.UsageError(
                f"--paper {self.paper}: one of {' '.join(sorted(set(self.papers.values())))}"
            )
        names = [part(item.nodeid, self.papers) for item in items]
        wanted = [
            name == f"paper {self.paper}" if self.paper else not (self.core and name.startswith("paper "))
            for name in names
        ]
        config.hook.pytest_deselected(items=[i for i, keep in zip(items, wanted, strict=True) if not keep])
        items[:] = [i for i, keep in zip(items, wanted, strict=True) if keep]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        self.began = spent()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo) -> Generator:
        outcome = yield
        if call.when == "teardown":
            outcome.get_result().user_properties.append(("processor_seconds", spent() - self.began))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            name = part(report.nodeid, self.papers)
            self.tests[name] += 1
            self.seconds[name] += sum(v for k, v in report.user_properties if k == "processor_seconds")

    def over(self) -> list[str]:
        """Papers above their budget."""
        return [n for n, spent in self.seconds.items() if n.startswith("paper ") and spent > PAPER]

    def lines(self) -> Iterable[str]:
        """The table, dearest first."""
        for name in sorted(self.seconds, key=self.seconds.__getitem__, reverse=True):
            if self.seconds[name] >= 1:
                mark = f"  over {PAPER:.0f} s" if name in self.over() else ""
                yield f"{self.seconds[name]:8.1f} s {self.tests[name]:5d} tests  {name}{mark}"
        yield f"{sum(self.seconds.values()):8.1f} s {sum(self.tests.values()):5d} tests  in all"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("processor seconds")
        for line in self.lines():
            terminalreporter.write_line(line)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.limit and self.over() and not hasattr(session.config, "workerinput"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
