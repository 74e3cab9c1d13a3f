"""The one error that Hapax raises for input it can't use."""


class HapaxError(ValueError):
    """Bad input, told in one sentence: what was found, what was expected, what to do."""
