"""An audit that is killed with SIGKILL at random moments and resumed is the unbroken audit, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks/kill_resume.py"


@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="No fork here: that a killed audit resumes to the same bits is NOT tested"
)
def test_three_kills(tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(BENCHMARK), "--kills", "3", "--seed", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills, every resumed audit is the unbroken one" in done.stdout
    print(done.stdout)
