"""The errors for input that cannot be used."""


class InputError(ValueError):
    """Bad input, described in one sentence that says what to do."""


class ConfigError(InputError):
    """A config that can be fixed by changing its settings."""


class UntrustedError(InputError):
    """A checkpoint that must be marked as trusted to be loaded."""
