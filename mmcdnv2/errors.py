"""The error for input that cannot be used."""

import functools
import sys
from typing import Callable


class InputError(ValueError):
    """Bad input, described in one sentence that says what to do."""


def exit_on_input_error(main: Callable[[], None]) -> Callable[[], None]:
    """Let a command-line tool end with the sentence, not with a traceback.

    Args:
        main (Callable): The tool's main function.

    Returns:
        Callable: The same, but an :class:`InputError` becomes exit status 1.
    """

    @functools.wraps(main)
    def wrapper() -> None:
        try:
            main()
        except InputError as error:
            sys.exit(f'error: {error}')

    return wrapper
