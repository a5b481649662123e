"""README's measured block comes from the result files alone."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "scripts" / "bench_readme.py"
spec = importlib.util.spec_from_file_location("bench_readme", PATH)
assert spec is not None
assert spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

README = f"# A\n\n{bench.BEGIN}\nold\n{bench.END}\n\nrest\n"
FILES = {
    "a.json": {
        "command": "python scripts/a.py",
        "machine": {"cpu": "X|1", "cores": 2, "threads": 1, "torch": "2.0", "load": 0.3},
        "summary": [["a | step", "1.05 x"]],
    },
    "b.json": {"machine": {"load": 9.0}, "summary": [["b", "2 s"]]},
    "c.json": {"results": {}},
}


def test_summaries_and_machines_stand_between_the_markers_and_nothing_else_changes():
    text = bench.filled(README, bench.block(FILES))
    assert text.startswith(
        f"# A\n\n{bench.BEGIN}\n| what | measured |\n|---|---|\n| a \\| step | 1.05 x |\n| b | 2 s |\n"
    )
    assert text.endswith(f"\n{bench.END}\n\nrest\n")
    assert "old" not in text
    assert "c.json" not in text
    assert "`python scripts/a.py`: 2 cores of X|1, 1 thread(s), torch 2.0.\n" in text
    assert "`b.json`: ? cores of an unnamed processor, ? thread(s), torch ?, load 9.0 by other work." in text
    assert bench.filled(text, bench.block(FILES)) == text  # a second time changes nothing


@pytest.mark.parametrize("broken", ["# A", f"{bench.END}{bench.BEGIN}", README + bench.BEGIN])
def test_markers_must_be_there_once_and_in_order(broken):
    with pytest.raises(ValueError, match="bench:begin"):
        bench.filled(broken, "x")
