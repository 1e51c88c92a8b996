"""The engine under mutated weights and random sizes, with sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "src" / "egeunet" / "engine"
NETWORKS = ("network_baseline.c", "network_avx2.c", "network_avx512.c")
FLAGS = ("-std=gnu11", "-O2", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("there is no C compiler")
    program = tmp_path_factory.mktemp("fuzz") / "fuzz"
    sources = [Path(__file__).with_name("fuzz.c"), *(ENGINE / n for n in ("image.c", *NETWORKS))]
    command = [compiler, *FLAGS, f"-I{ENGINE}", *map(str, sources), "-lm", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_damaged_weights_and_any_size_are_safe(harness: Path, count: int) -> None:
    done = subprocess.run([harness, str(count), "7"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    total, accepted = (int(word) for word in done.stdout.split() if word.isdigit())
    assert total == count
    assert 0.2 < accepted / total < 0.8  # else it reaches either only the loader or no refusals
