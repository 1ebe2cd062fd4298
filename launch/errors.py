"""What a person asked for and cannot have: each of these ends a command with one sentence and exit
status 2.
"""


class UsageError(Exception):
    """The command line asks for something that is not there; exit status 2."""


class FilterError(ValueError):
    """A --where that cannot match anything; the message says what would."""
