"""Put the Online Retail data where `sources.yaml` looks for it: `data/online_retail.parquet`.

    python specs/retail/prepare.py path/to/online_retail.parquet

Without a path it is looked for in the folder that FEATURESTORE_SHARED_DATA names. The file is linked, or
copied where that cannot be; nothing in it is changed. Its columns are InvoiceNo, StockCode, Description,
Quantity, InvoiceDate (naive, UK time), UnitPrice, CustomerID (float, with nulls) and Country.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

NAME = "online_retail.parquet"


def main(arguments: list[str] | None = None) -> None:
    """Link or copy the file that the command line names and print where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path, nargs="?", help=f"{NAME}, or the folder that holds it")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data", help="the folder to fill")
    options = parser.parse_args(arguments)
    given = options.path or Path(os.environ.get("FEATURESTORE_SHARED_DATA", "."))
    source = (given / NAME if given.is_dir() else given).resolve()
    if not source.is_file():
        raise SystemExit(f"{source} does not exist. Name the file, or set FEATURESTORE_SHARED_DATA.")
    target = options.out / NAME
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source):
        print(target)
        return
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
    print(target)


if __name__ == "__main__":
    main()
