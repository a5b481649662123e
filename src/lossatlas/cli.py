"""argv -> Hydra. Lists experiments, turns every config error into one line, runs one job or a study.

Nothing here imports torch: a list, a help text or a typo must cost well under a second.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lossatlas import listing
from lossatlas.errors import UserError
from lossatlas.paths import conf_dir
from lossatlas.signals import heard_by, interrupt, outliving_readers

HYDRA_FLAGS = (
    "-h",
    "--help",
    "--hydra-help",
    "-c",
    "--cfg",
    "-i",
    "--info",
    "-sc",
    "--shell-completion",
    "--version",
)
TRACE_ENV = "HYDRA_FULL_ERROR"


def main() -> None:
    """Entry point of `python -m run` and `lossatlas`; exits 0, 1 (a job failed), 2 (bad input) or 130."""
    with outliving_readers():
        _main(sys.argv[1:])


def _main(argv: list[str]) -> None:
    if "LOCAL_RANK" in os.environ and os.environ.get("RANK", "0") != "0":
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (torchrun: the first process speaks for all)
    if not argv:
        print(listing.overview())
        sys.exit(0)
    if os.environ.get(TRACE_ENV, "0") not in ("", "0") or "debug=trace" in argv:
        sys.exit(dispatch(argv))
    try:
        with heard_by(
            interrupt, (signal.SIGTERM,)
        ):  # once a run trains, callbacks.Checkpoints listens instead
            code = dispatch(argv)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        code = 130
    except Exception as error:
        print(f"lossatlas: {one_line(error)}", file=sys.stderr)
        code = 2
    sys.exit(code)


def dispatch(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; raises what Hydra or the checks raise."""
    if any(arg in HYDRA_FLAGS or arg.startswith("--hydra-help") for arg in argv):
        if "--version" in argv:
            from lossatlas import __version__

            print(f"lossatlas {__version__}")
            return 0
        _hydra(list(argv))
        return 0
    if len(argv) == 1 and "=" not in argv[0] and not argv[0].startswith("-"):
        print(listing.of_paper(argv[0]))
        return 0
    from lossatlas import sweeps
    from lossatlas.command import check_single

    if any(arg in ("-m", "--multirun") for arg in argv):
        return sweeps.study(list(argv), _hydra)
    check_single(list(argv))
    return sweeps.single(list(argv), _hydra)


def one_line(error: BaseException) -> str:
    """One line for any error: the nearest right name where Hydra names only the wrong one."""
    from hydra.errors import MissingConfigException, OverrideParseException

    from lossatlas.jobs import said
    from lossatlas.keys import nearest
    from lossatlas.private import redact

    if isinstance(error, UserError):
        return redact(" ".join(str(error).split()))
    text = redact(" ".join(str(error).split()))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if group.startswith("experiment"):
            group, option = "experiment", error.missing_cfg_file.removeprefix("experiment/")
            options = [found.name for found in listing.experiments()]
        else:
            options = list(error.options or [])
        return f"{group}={option}: no such {group or 'config'}; {nearest(option, options)}"
    if isinstance(error, OverrideParseException):
        given = redact(repr(error.override))
        return f"{given} could not be read; write key=value, in quotes where a shell would change it"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'outputs'}: {error.strerror}"
    return text or redact(said(error))


def _hydra(argv: list[str]) -> None:
    import hydra

    from lossatlas.jobs import job

    with _patched(["lossatlas", *argv]):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()


@contextmanager
def _patched(argv: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv and, asked for full errors, raises instead of printing many lines and exiting 1."""
    before, trace = sys.argv, os.environ.get(TRACE_ENV)
    sys.argv, os.environ[TRACE_ENV] = argv, "1"
    try:
        yield
    finally:
        sys.argv = before
        if trace is None:
            os.environ.pop(TRACE_ENV, None)
        else:
            os.environ[TRACE_ENV] = trace
