"""What a run says as it goes."""

import errno
import os
import sys

GONE = (errno.EPIPE, errno.EIO)


def tell(text: str) -> None:
    """Print a line to whoever still listens: a Ctrl-C ends `| tee` too, and a training goes on to save."""
    try:
        print(text, flush=True)
    except OSError as error:
        if error.errno not in GONE:
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
