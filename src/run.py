"""`python -m run`: the same command as the console script `lossatlas`."""

from lossatlas.cli import main

if __name__ == "__main__":
    main()
