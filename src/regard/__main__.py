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
    # What imports make lives on: to look for garbage among it is a fifth of what a command costs, also when the process ends.
    gc.set_threshold(100_000, 20, 20)
    from regard.cli.commands import main as command_line

    try:
        command_line()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
