"""The error for input that cannot be used."""


class InputError(ValueError):
    """Bad input, described in one sentence that says what to do."""
