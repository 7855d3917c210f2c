"""A double of the API server with a lab behind it, as a process: `FOLDER` gets a kubeconfig, then it says "ready".

It stays until its standard input ends, or until it is killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from probe.lab import Lab, load_scenario
from tests.cluster.double import Double
from tests.cluster.double.double import namespaces
from tests.cluster.double.execution import LabExecutor

SCENARIO = "cluster-remote"


def main(folder: Path) -> None:
    with Lab.start(load_scenario(SCENARIO)) as lab:
        objects = [*namespaces("default", "kube-system"), *lab.objects()["items"]]
        with Double(objects, LabExecutor(lab)) as double:
            double.kubeconfig(folder / "kubeconfig")
            os.write(1, b"ready\n")
            sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
