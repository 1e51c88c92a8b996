"""Exceptions that tell the user what failed, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class EgeunetError(Exception):
    """Base class; the command line prints the message without a traceback and exits with 1."""


class UsageError(EgeunetError):
    """An invalid argument, option or setting; the command line exits with 2."""


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
    """Turn a failed import in the block into an error that names the extra to install.

    Raises:
        MissingExtraError: A third-party library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = str(error.name).partition(".")[0]
        if library == "egeunet":  # a bug in this package
            raise
        raise MissingExtraError(library, extra) from error


class ImageTooLargeError(EgeunetError):
    """An image has more pixels, or takes more memory to decode, than allowed."""


class ParityError(EgeunetError):
    """An exported file does not compute the same as the model in torch; it is not kept."""


class InterruptedRunError(EgeunetError):
    """A signal stopped the work cleanly; the command line exits with 128 + the signal number.

    Args:
        message: Where the work stopped and how to resume it.
        signal_number: Number of the signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
