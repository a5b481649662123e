"""Whether the active environment has the versions of a lock file; one line and exit code 2 if not.

Usage: python scripts/check_env.py requirements.lock
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement


def main() -> int:
    """Compares and prints the first differences."""
    lines = (line.split("#")[0].strip() for line in Path(sys.argv[1]).read_text().splitlines())
    wanted = [Requirement(line) for line in lines if line]
    wrong = []
    for need in wanted:
        if need.marker is not None and not need.marker.evaluate():
            continue
        try:
            found = version(need.name)
        except PackageNotFoundError:
            found = "missing"
        if found == "missing" or not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need} (here: {found})")
    try:
        version("lossatlas")
    except PackageNotFoundError:
        wrong.append("lossatlas itself (pip install --no-deps -e .)")
    if wrong:
        print(
            f"this environment does not fit: {'; '.join(wrong[:5])}; leave out VENV= to build one",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
