"""The one exception that carries a message for the person at the keyboard."""


class UserError(ValueError):
    """A mistake the user can mend: the message is one line saying what, where and what to do.

    The command line prints it without a traceback and exits with 2. Library code that only checks its own
    arguments raises plain `ValueError`, of which this is a kind.
    """
