"""The one error that a user is meant to read."""


class UserError(Exception):
    """What is wrong, where, and what to do, in one line; the command line prints it and exits with status 2."""
