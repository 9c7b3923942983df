"""The tags that the registry moves by itself; users move others, such as `prod`."""

from __future__ import annotations

LATEST = "latest"
"""What `apply` registered last: what a bare name stands for."""
NEXT = "next"
"""What `apply --promote` is filling; it is `latest` once it is promoted."""
PREVIOUS = "previous"
"""What the last promotion replaced: what `rollback` goes back to."""
