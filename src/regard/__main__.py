"""`python -m regard`, and the `regard` command: the command line. The version is said without loading it."""

from __future__ import annotations

import sys

from regard.version import __version__


def main() -> None:
    """Run the command line on the program's arguments."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"regard {__version__}\n")
        return
    from regard.cli.commands import main as command_line

    command_line()


if __name__ == "__main__":
    main()
