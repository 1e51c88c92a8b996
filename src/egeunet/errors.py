"""The errors a user can cause or mend: one sentence that says what was wrong and what helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class EgeunetError(Exception):
    """Something a user can act on; the command line prints its message alone and exits with 1."""


class UsageError(EgeunetError):
    """A wrong word on the command line or in a call; the command line exits with 2."""


class MissingExtraError(EgeunetError):
    """An optional library is not installed.

    The advised command also works where egeunet was installed from source: pip and uv then take the
    extra's requirements from the installed package.

    Args:
        library: Name of the missing library.
        extra: Extra of this package that installs it.
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed. Run: pip install 'egeunet[{extra}]'.")


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Do what takes an extra of this package.

    Raises:
        MissingExtraError: A library of others is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = str(error.name).partition(".")[0]
        if library == "egeunet":  # a mistake of ours
            raise
        raise MissingExtraError(library, extra) from error


class ImageTooLargeError(EgeunetError):
    """An image has more pixels, or takes more memory to decode, than allowed."""


class ParityError(EgeunetError):
    """An exported file computes something else than the network in torch; it is not kept."""


class InterruptedRunError(EgeunetError):
    """A signal ended the work in good order; the program exits with 128 + the signal's number.

    Args:
        message: Where it stopped and how to go on.
        signal_number: Which signal it was.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
