"""The atlas of 58 made-up papers with 1000 records each: seconds to build it, size of the index, first paint.

The build checks every record for staleness, without a cache of earlier answers. First paint is the browser's own
first-contentful-paint of pages opened from disk in a headless Chromium, the median of five loads.

Usage: python scripts/bench_report.py [--papers 58] [--records 1000] [--json FILE]
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import benching

from lossatlas.report import build

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "report"))
PAINT = """() => new Promise(done => new PerformanceObserver(list => list.getEntriesByName('first-contentful-paint')
    .forEach(entry => done(entry.startTime))).observe({type: 'paint', buffered: true}))"""


def first_paint(pages: dict[str, Path], loads: int = 5) -> dict[str, float]:
    """Milliseconds from navigation to the first text or picture, the median over loads in fresh tabs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        found = {name: [_paint(browser, page) for _ in range(loads + 1)][1:] for name, page in pages.items()}
        browser.close()
    return {name: statistics.median(values) for name, values in found.items()}


def _paint(browser: Any, page: Path) -> float:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    value = tab.evaluate(PAINT)
    tab.close()
    return value


def main() -> int:
    """Builds, measures, writes the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--papers", type=int, default=58)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "report.json")
    args = parser.parse_args()
    import synthetic

    with tempfile.TemporaryDirectory() as folder:
        evidence, out = Path(folder) / "evidence", Path(folder) / "report"
        for k in range(args.papers):
            synthetic.paper(evidence, f"paper_{k:02d}", args.records)
        wall, processor = time.perf_counter(), time.process_time()
        index = build(evidence, out)
        spent = {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}
        size = index.stat().st_size
        paint = first_paint({"index": index, "paper": out / "papers" / "paper_00.html"})
    summary = [
        [f"the atlas of {args.papers} papers x {args.records} records",
         f"built in {spent['wall_s']:.1f} s, index {size / 1000:.0f} kB"],
        ["first paint, headless", ", ".join(f"{name} {ms:.0f} ms" for name, ms in paint.items())],
    ]  # fmt: skip
    benching.write(args.json, summary, {**spent, "index_bytes": size, "first_paint_ms": paint})
    return 0


if __name__ == "__main__":
    sys.exit(main())
