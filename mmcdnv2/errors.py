"""The errors for input that cannot be used."""


class InputError(ValueError):
    """Bad input, described in one sentence that says what to do."""


class ConfigError(InputError):
    """A config that other settings in it would mend."""


class UntrustedError(InputError):
    """A checkpoint that only those should load who trust where it comes from."""
