"""What the command line sets up for training."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("set_by_user", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning_unless_the_user_decides(set_by_user, expected):
    """OpenMP reads the variable when torch is loaded, which is after `main` begins."""
    code = (
        "import os, sys, egeunet.cli.main as main; sys.argv = ['egeunet', '--version']\n"
        "try: main.main()\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if set_by_user:
        environment["OMP_WAIT_POLICY"] = set_by_user
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == f"{expected} False"
