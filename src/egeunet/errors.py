"""The errors a user can cause or mend: one sentence that says what was wrong and what helps."""


class EgeunetError(Exception):
    """Something a user can act on; the command line prints its message alone and exits with 1."""


class UsageError(EgeunetError):
    """A wrong word on the command line or in a call; the command line exits with 2."""


class MissingExtraError(EgeunetError):
    """An optional library is not installed.

    Args:
        library: What could not be imported.
        extra: The extra of this package that brings it.
    """

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"This needs {library}, which is not installed: pip install 'egeunet[{extra}]'."
        )


class InterruptedRunError(EgeunetError):
    """A signal ended the work in good order; the program exits with 128 + the signal's number.

    Args:
        message: Where it stopped and how to go on.
        signal_number: Which signal it was.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
