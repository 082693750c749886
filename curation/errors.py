"""The two ways a run may end early; the text of each is the whole message."""


class UsageError(Exception):
    """What was given, what is allowed and what to do, in one sentence."""


class Stopped(Exception):
    """The run cannot go on now, but the same command will continue it."""
