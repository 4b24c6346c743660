"""Run the command line with `python -m pa_lite`."""

from pa_lite.cli import main

main()
