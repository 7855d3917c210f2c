"""What an agent's container runs between sessions: nothing, until it is told to end.

`python -m daemonset.idle` is the main process of the DaemonSet's pods. Agents are started beside it through
pods/exec and end by themselves with the session that started them, so a DaemonSet that was left behind costs a
sleeping process for each node. It does not end on its own, since the kubelet would only start it again.

It is not process 1 where the pod shares the node's process namespace, and need not be: SIGTERM and SIGINT end
it either way, at once and in order.
"""

from __future__ import annotations

import signal
import sys

_ENDS = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Sleep until SIGTERM or SIGINT; answers 0."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # pending from here on, so that none is missed
    signal.sigwait(_ENDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
