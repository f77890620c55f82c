"""Where the single file begins."""

from trustgate.cli import main

main()
