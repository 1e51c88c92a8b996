"""The cache folder."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from egeunet.errors import EgeunetError
from egeunet.files import cache_folder


@pytest.fixture
def no_home(monkeypatch, tmp_path):
    """A user without HOME whom the system does not know, as in some containers."""
    pwd = pytest.importorskip("pwd")

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "EGEUNET_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"egeunet-{os.getuid()}"


def test_the_environment_names_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.delenv("EGEUNET_CACHE", raising=False)
    assert cache_folder() == tmp_path / "x/egeunet"
    monkeypatch.setenv("EGEUNET_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_user_without_a_home_gets_a_private_temporary_folder(no_home):
    assert cache_folder() == cache_folder() == no_home
    assert stat.S_IMODE(no_home.stat().st_mode) == 0o700


def test_a_temporary_folder_of_another_user_is_refused(no_home, tmp_path):
    (tmp_path / "theirs").mkdir()
    no_home.symlink_to(tmp_path / "theirs")
    with pytest.raises(EgeunetError, match=r"belongs to another user.*EGEUNET_CACHE"):
        cache_folder()


def test_a_process_of_an_unknown_user_without_a_home_finds_a_cache_folder():
    if os.geteuid() != 0:
        pytest.skip("only root can run a process as an unknown user")
    code = (
        "import os; from egeunet.files import cache_folder;"
        "os.setgid(54321); os.setuid(54321); print(cache_folder())"
    )
    hidden = {"HOME", "XDG_CACHE_HOME", "EGEUNET_CACHE"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("egeunet-54321"), done.stderr
    Path(done.stdout.strip()).rmdir()
