"""The errors for files that cannot be used, each described in one sentence."""


class ModelError(ValueError):
    """A model that cannot be run here; the message says why and what to do."""


class ImageError(ValueError):
    """An image that cannot be read or that the model does not take."""


def first_line(error: Exception) -> str:
    """Return the first line of another package's error, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip('.')
