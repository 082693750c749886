"""The two ways a run may end early, the text of each being the whole message, and what to quote there."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def reason_of(error: BaseException) -> str:
    """What a library's error says, on one line of at most 300 characters; its class where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class UsageError(Exception):
    """What was given, what is allowed and what to do, in one sentence."""


class Stopped(Exception):
    """The run cannot go on now, but the same command will continue it."""
