"""`python -m lossatlas.report`: builds the atlas."""

import argparse
import sys
from pathlib import Path

from lossatlas.errors import UserError
from lossatlas.paths import CHECKOUT, experiments_dir, is_checkout, report_dir


def main(argv: list[str] | None = None) -> int:
    """Builds the report, or fills README's gallery; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lossatlas.report", description=__doc__)
    parser.add_argument("--out", type=Path, default=report_dir(), help="folder to write, default report/")
    parser.add_argument("--experiments", type=Path, default=experiments_dir(), help="folder of evidence")
    parser.add_argument(
        "--no-check-stale", action="store_true", help="do not compare configs with today's code"
    )
    parser.add_argument("--gallery", type=Path, metavar="README", help="fill that file's gallery instead")
    args = parser.parse_args(argv)
    try:
        if args.gallery:
            from lossatlas.report.gallery import fill

            fill(args.gallery, args.experiments)
            return 0
        from lossatlas.report import build, warn

        folder = CHECKOUT if is_checkout() else args.out.resolve().parent
        cache = folder / ".cache" / "report-configs.json"
        index = build(args.experiments, args.out, check=not args.no_check_stale, cache=cache, say=warn)
    except UserError as error:
        print(f"lossatlas: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"report: {index}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
