"""Many errors of one project, collected so that its author sees all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from featurestore.errors import SpecError


class SpecErrors(SpecError):
    """All that is wrong with a project's declarations: `errors`, each on a line of the message."""

    def __init__(self, errors: Sequence[SpecError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


class Problems:
    """A collector of SpecErrors: what fails inside `collect()` is noted, and the work goes on."""

    def __init__(self) -> None:
        self.errors: list[SpecError] = []

    def add(self, error: SpecError) -> None:
        """Note an error; one that holds many is taken apart."""
        self.errors.extend(error.errors if isinstance(error, SpecErrors) else [error])

    @contextmanager
    def collect(self, where: str | None = None, label: str | None = None) -> Iterator[None]:
        """Note the SpecError that the block raises; one without a place is given `where` and `label`."""
        try:
            yield
        except SpecError as error:
            self.add(placed(error, where, label))

    def check(self) -> None:
        """Raise SpecErrors where anything was noted."""
        if self.errors:
            raise SpecErrors(self.errors)


def placed(error: SpecError, where: str | None, label: str | None = None) -> SpecError:
    """Return the error itself where it names a place, else one that says `where: label: message`."""
    if isinstance(error, SpecErrors) or error.where is not None:
        return error
    message = f"{label}: {error.message}" if label else error.message
    return SpecError(message, where=where, hint=error.hint)
