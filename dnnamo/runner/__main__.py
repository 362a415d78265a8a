"""Entry point of the runner process: `python -m dnnamo.runner FD`, with a `Request` on standard input."""

import ctypes
import faulthandler
import os
import signal
import sys

from dnnamo.runner.execute import execute
from dnnamo.runner.wire import Request, send

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Carry out the request on standard input and report on the file descriptor that the command line names."""
    _die_with_parent()
    faulthandler.enable()
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    request = Request.from_json(sys.stdin.buffer.read())
    _close_stdin()
    send(report, execute(request))
    # Threads, atexit functions and destructors of the user's code have no say in whether the job has ended.
    os._exit(0)


def _die_with_parent() -> None:
    """Have the kernel kill this process when the supervisor dies, so that no measurement runs on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _close_stdin() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


main()
