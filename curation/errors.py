"""The one exception that a user's input may cause; its text is the whole message."""


class UsageError(Exception):
    """What was given, what is allowed and what to do, in one sentence."""
