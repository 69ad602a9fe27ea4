"""`python -m regard`, and the `regard` command: the command line. The version is said without loading it."""

from __future__ import annotations

import gc
import sys

from regard.version import __version__


def main() -> None:
    """Run the command line on the program's arguments."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"regard {__version__}\n")
        return
    gc.set_threshold(
        100_000, 20, 20
    )  # imports make much that lives and no garbage; to look for it is a tenth of the start
    from regard.cli.commands import main as command_line

    command_line()


if __name__ == "__main__":
    main()
