"""How large the fault tests run: seconds in `make test`, full size in `make faults`."""

from __future__ import annotations

import os

LONG = os.environ.get("FEATURESTORE_FAULTS") == "long"
"""Whether the full sizes are asked for."""
