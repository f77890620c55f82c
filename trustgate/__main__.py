"""The program ``trustgate``, and ``python -m trustgate``."""

from __future__ import annotations

from typing import NoReturn

from trustgate.signals import hold_hangup


def main() -> NoReturn:
    """The console script."""
    hold_hangup()  # before the imports of the command line, which take a moment
    from trustgate import cli

    cli.main()


if __name__ == "__main__":
    main()
