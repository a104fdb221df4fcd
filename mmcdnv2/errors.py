"""The errors for input that cannot be used."""


class InputError(ValueError):
    """Bad input, described in one sentence that says what to do."""


class ConfigError(InputError):
    """A config that can be fixed by changing its settings."""


class DataError(ConfigError):
    """Data that is wrong; the config may name other data."""


class UntrustedError(InputError):
    """A checkpoint that must be marked as trusted to be loaded."""


class ChangedFileError(InputError):
    """An exported file whose checksum differs."""


def in_one_line(error: Exception) -> str:
    """Describe an error of other code by its type and its message's first line."""
    first = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {first}'
