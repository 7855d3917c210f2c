"""The agent on a kernel that has no memory for a ring."""

from __future__ import annotations

import errno
import sys
from unittest import mock

from daemonset import agent, capture

if __name__ == "__main__":
    with mock.patch.object(capture, "Ring", side_effect=OSError(errno.ENOMEM, "Cannot allocate memory")):
        sys.exit(agent.main())
