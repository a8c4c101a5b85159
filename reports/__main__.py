"""`python -P -m reports RUN`: draws the report of a run folder again from its tables alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reports.page import draw_report


def main(arguments: list[str] | None = None) -> int:
    """0 and the page's path on stdout; 2 and what is missing on stderr."""
    parser = argparse.ArgumentParser(prog="reports", description="Draw a run's report from its tables.")
    parser.add_argument("run", type=Path, help="a run folder with family.json and records.parquet")
    try:
        print(draw_report(parser.parse_args(arguments).run))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
