"""Writes README, figure and verdicts of papers anew from their records and cards, after a card's text was edited.

No run is made and no number is typed: what a card claims is judged again on the records that lie there.

Usage: python scripts/refresh_room.py SLUG...
"""

import argparse
import sys

from lossatlas.errors import UserError
from lossatlas.paths import experiments_dir
from lossatlas.study import refresh


def main() -> int:
    """One line per paper."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slugs", nargs="+", metavar="SLUG")
    for slug in parser.parse_args().slugs:
        try:
            verdicts = refresh(experiments_dir() / slug)
        except UserError as error:
            print(f"lossatlas: {error}", file=sys.stderr)
            return 2
        print(f"{slug}: " + ", ".join(f"{v.id} {v.verdict}" for v in verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
