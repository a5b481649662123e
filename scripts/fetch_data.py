"""Fetch data sets ahead of time, for nodes without a network.

python scripts/fetch_data.py letter vowel
python scripts/fetch_data.py --all
python scripts/fetch_data.py --experiment ldr_noisy
"""

import argparse
import difflib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lossatlas.errors import UserError
from lossatlas.paths import conf_dir


def main(argv: list[str] | None = None) -> int:
    """Runs the command; 0, or 2 with one line per set that could not be fetched."""
    args = parser().parse_args(argv)
    try:
        names = wanted(args)
    except UserError as error:
        print(f"fetch_data: {error}", file=sys.stderr)
        return 2
    failed = 0
    for position, name in enumerate(names, 1):
        started = time.perf_counter()
        try:
            line = fetch_one(name, args)
        except UserError as error:
            print(f"fetch_data: {error}", file=sys.stderr)
            failed = 2
            continue
        print(f"[{position}/{len(names)}] {name}: {line}, {time.perf_counter() - started:.1f} s", flush=True)
    return failed


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="fetch_data.py", description="Fetch data sets into the data folder.")
    out.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known())}")
    out.add_argument("--all", action="store_true", help="every data set of conf/data")
    out.add_argument(
        "--experiment", action="append", default=[], metavar="E", help="the sets an experiment uses"
    )
    out.add_argument("--root", help="the data folder (default: LOSSATLAS_DATA or ~/.cache/lossatlas)")
    out.add_argument("--mirrors", help="folders in the hub's layout (default: LOSSATLAS_MIRRORS)")
    out.add_argument("--refresh", action="store_true", help="fetch again what is there already")
    return out


def known() -> list[str]:
    """The declared data sets."""
    paths = sorted((conf_dir() / "data").glob("*.yaml"))
    return [p.stem for p in paths if "sources" in read_yaml(p)]


def wanted(args: argparse.Namespace) -> list[str]:
    """Names asked for, each once.

    Raises:
        UserError: nothing asked for, an unknown name.
    """
    names = list(args.names) + (known() if args.all else [])
    for experiment in args.experiment:
        names += of_experiment(experiment)
    for name in names:
        if name not in known():
            raise UserError(f"no data set {name!r}; {nearest(name, known())}")
    if not names and not args.experiment:
        raise UserError("name a data set, or --all, or --experiment NAME; --help lists the data sets")
    return list(dict.fromkeys(names))


def of_experiment(name: str) -> list[str]:
    """Data sets in an experiment's defaults, in those it inherits, and in its study grids."""
    folder = conf_dir() / "experiment"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        names = [str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml")]
        raise UserError(f"no experiment {name!r}; {nearest(name, names)}")
    config, found = read_yaml(path), []
    for entry in config.get("defaults") or []:
        for key, value in entry.items() if isinstance(entry, dict) else [(entry, None)]:
            group = str(key).removeprefix("override ").removeprefix("optional ").strip("/").split("@")[0]
            if group == "data" and value:
                found += of_data(str(value))
            elif group == "experiment" and value:
                found += of_experiment(value)
            elif group.startswith("experiment/") and value is None:
                found += of_experiment(group.removeprefix("experiment/"))
    swept = {v.strip() for text in grid_values(config, "data") for v in text.split(",")}
    return found + [n for n in known() if n in swept]


def of_data(name: str) -> list[str]:
    """The data set of a conf/data file: itself, or those it is made of (`defaults: [kjv@corpus]`)."""
    if name in known():
        return [name]
    path = conf_dir() / "data" / f"{name}.yaml"
    made_of = (read_yaml(path).get("defaults") or []) if path.is_file() else []
    return [n for n in (str(entry).split("@")[0] for entry in made_of) if n in known()]


def grid_values(node: Any, key: str) -> Iterator[str]:
    """Texts under `key` anywhere in a config: the grids' `data: "letter,vowel"`."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key and isinstance(value, str):
                yield value
            else:
                yield from grid_values(value, key)


def fetch_one(name: str, args: argparse.Namespace) -> str:
    """Fetches one set; says how many rows came from where."""
    from lossatlas.data.cache import make_place
    from lossatlas.data.loading import fetch, make_spec

    node = read_yaml(conf_dir() / "data" / f"{name}.yaml")
    place = make_place(args.root, args.mirrors)
    if all(entry.get("kind") == "formula" for entry in node["sources"]):
        return "made where it is used, nothing to fetch"
    if "books" in node:
        from lossatlas.data.text import declaration, fetch_text

        text, source = fetch_text(**declaration(node), place=place, refresh=args.refresh)
        return f"{len(text)} verses ({source})"
    if str(node.get("_target_", "")).endswith("load_ratings"):
        from lossatlas.data import ratings

        held = ratings.fetch_ratings(**ratings.declaration(node), place=place, refresh=args.refresh)
        return f"{len(held.rating)} ratings ({held.source})"
    if "classes" not in node:
        from lossatlas.data.lines import fetch_lines

        parts, source = fetch_lines(node["name"], node["sources"], node.get("sha256"), place, args.refresh)
        return f"{sum(part.count(chr(10)) + 1 for part in parts)} sentences ({source})"
    spec = make_spec(node["name"], node["classes"], node["shape"], node.get("sha256"), node.get("labels"))
    table, source = fetch(spec, node["sources"], place, args.refresh)
    return f"{len(table.y)} rows ({source})"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file; interpolations stay text, none is needed here."""
    made = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(made, dict)
    return {str(key): value for key, value in made.items()}


def nearest(name: str, names: list[str]) -> str:
    """The nearest names, or all."""
    close = difflib.get_close_matches(name, names, 3)
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(names)) or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
