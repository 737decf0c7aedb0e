"""The one exception that ends a run for a reason the user can act on."""


class RunError(RuntimeError):
    """The machine or the numbers ended the run; the message is one line and says what to do."""
