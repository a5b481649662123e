"""Fills README's measured block from experiments/_bench/*.json: the summaries as they are, nothing is typed.

Usage: python scripts/bench_readme.py [--check]    (--check writes nothing and exits 1 where README is out of date)
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def block(files: dict[str, dict[str, Any]]) -> str:
    """One row per pair of each file's summary, then the machines; files without a summary are left out."""
    files = {name: content for name, content in files.items() if content.get("summary")}
    lines = ["| what | measured |", "|---|---|"]
    lines += [
        f"| {_cell(what)} | {_cell(value)} |"
        for content in files.values()
        for what, value in content["summary"]
    ]
    machines: dict[str, list[str]] = {}
    for name, content in files.items():
        machines.setdefault(_machine(content.get("machine", {})), []).append(
            f"`{content.get('command', name)}`"
        )
    lines += ["", *(f"{', '.join(commands)}: {machine}." for machine, commands in machines.items())]
    lines += ["", "Losses one by one: [docs/losses.md](docs/losses.md)."] if "losses.json" in files else []
    return "\n".join(lines)


def _machine(facts: dict[str, Any]) -> str:
    load = f", load {facts['load']} by other work" if facts.get("load", 0) > 2 else ""
    return (
        f"{facts.get('cores', '?')} cores of {facts.get('cpu', 'an unnamed processor')}, "
        f"{facts.get('threads', '?')} thread(s), torch {facts.get('torch', '?')}{load}"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def filled(readme: str, text: str) -> str:
    """README with the text between its markers.

    Raises:
        ValueError: the markers are not there once, in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"README.md must hold {BEGIN} and, behind it, {END}, each once")
    head, tail = readme[: readme.index(BEGIN) + len(BEGIN)], readme[readme.index(END) :]
    return f"{head}\n{text}\n{tail}" if text else f"{head}\n{tail}"


def main() -> int:
    """Writes README.md, or compares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    paths = sorted((ROOT / "experiments" / "_bench").glob("*.json"))
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = filled(before, block({path.name: json.loads(path.read_text()) for path in paths}))
    if args.check:
        return int(after != before)
    readme.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
