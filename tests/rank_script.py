"""Started by torchrun in test_launch: several command lines in one process each, so that torch is imported once."""

import json
import sys

from lossatlas import cli


def main() -> None:
    """Runs the command lines of a JSON file one after another; the first bad exit code ends it."""
    for words in json.loads(sys.argv[1]):
        sys.argv = ["run", *words]
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code:
                raise


if __name__ == "__main__":
    main()
