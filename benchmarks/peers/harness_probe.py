"""What the test of the harness measures."""


def hold(size: int) -> int:
    """Hold so many bytes, and return how many."""
    return len(b"x" * size)
