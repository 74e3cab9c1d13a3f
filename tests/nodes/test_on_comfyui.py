"""The tests in inprocess/, on every ComfyUI of this machine, each with its own Python."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
INSIDE = REPO / "tests" / "nodes" / "inprocess"


def test_inside_comfyui(checkout: Path, sibling):
    environment = os.environ | {"HAPAX_COMFYUI": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [str(sibling("server").python_of(checkout)), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-rfEs", "-c", str(REPO / "tests" / "pytest.ini"), "--rootdir", str(INSIDE), str(INSIDE)]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=1800)
    print(done.stdout[-3000:])
    assert done.returncode == 0, f"inside {checkout}:\n{done.stdout[-12000:]}\n{done.stderr[-3000:]}"
    assert " passed" in done.stdout
    # What was skipped in there passes here: without this nobody would see it.
    for line in re.findall(r"^SKIPPED .+", done.stdout, re.MULTILINE):
        warnings.warn(f"inside {checkout.name}: {line}", stacklevel=1)
