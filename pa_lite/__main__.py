"""`python -m pa_lite` is the command line."""

from pa_lite.cli import main

main()
