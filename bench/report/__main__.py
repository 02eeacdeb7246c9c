"""One page with everything on record: ratios over commits, rooflines, and the long tables.

python -m bench.report               # writes docs/bench/index.html
python -m bench.report PAGE.html     # or another file

It is made of `bench/history/` and `bench/results/` alone; nothing is measured.
"""

import argparse
from pathlib import Path

from bench.report.page import PAGE, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", nargs="?", type=Path, default=PAGE, metavar="PAGE")
    page = parser.parse_args().page
    write(page)
    print(f"{page}: {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
