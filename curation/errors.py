"""The two ways a run may end early; the text of each is the whole message."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class UsageError(Exception):
    """What was given, what is allowed and what to do, in one sentence."""


class Stopped(Exception):
    """The run cannot go on now, but the same command will continue it."""
