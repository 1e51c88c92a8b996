"""Compiling C code, keeping it and refusing it; each case in a process of its own."""

import os
import shutil
import subprocess
import sys

import pytest

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="nothing is compiled on Windows")

LOAD = """
import sys
from pathlib import Path
from egeunet import native
answers = [native.load(Path(name)) for name in sys.argv[1:]]
print(*(answer and answer.answer() for answer in answers))
"""


@pytest.fixture
def load(tmp_path):
    """Load C files in a new process; returns their answers (None: not loaded) and all messages."""
    sources = []
    for name in ("one", "two"):
        sources.append(tmp_path / f"{name}.c")
        sources[-1].write_text("int answer(void) { return 42; }\n")

    def run(**settings):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, *sources],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "EGEUNET_CACHE": str(tmp_path / "cache"), **settings},
        )
        return done.stdout.strip(), done.stderr

    return run


@pytest.fixture
def libraries(tmp_path, load):
    """The two libraries that are in the cache after the first call."""
    assert load() == ("42 42", "")
    found = sorted((tmp_path / "cache" / "compiled").iterdir())
    assert len(found) == 2
    return found


@pytest.fixture
def trap(tmp_path):
    """A library that ends the process that loads it."""
    source, library = tmp_path / "trap.c", tmp_path / "trap.so"
    body = "void _exit(int); __attribute__((constructor)) void f(void) { _exit(3); }"
    source.write_text(body)
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    return library.read_bytes()


@needs_compiler
def test_a_library_is_kept_for_its_owner_alone_and_used_again(load, libraries):
    assert libraries[0].parent.stat().st_mode & 0o777 == 0o700
    before = [library.stat() for library in libraries]
    assert load() == ("42 42", "")
    assert [library.stat() for library in libraries] == before


@needs_compiler
def test_a_truncated_library_is_compiled_again(load, libraries):
    good = libraries[0].read_bytes()
    libraries[0].write_bytes(good[: len(good) // 2])
    assert load() == ("42 42", "")
    assert libraries[0].read_bytes() == good


@needs_compiler
def test_a_planted_library_is_compiled_again(load, libraries, trap):
    libraries[0].write_bytes(trap)
    assert load() == ("42 42", "")
    assert libraries[0].read_bytes() != trap


@needs_compiler
@pytest.mark.parametrize(
    ("above", "mode"), [(False, 0o777), (False, 0o770), (False, 0o1777), (True, 0o777)]
)
def test_nothing_is_loaded_from_where_others_can_write(load, libraries, trap, above, mode):
    folder = libraries[0].parent.parent if above else libraries[0].parent
    libraries[0].write_bytes(trap)
    folder.chmod(mode)
    answers, messages = load()
    assert answers == "None None"
    assert f"other users can write to {folder}" in messages
    assert messages.count("\n") == 1


@needs_compiler
@pytest.mark.skipif(os.name != "nt" and os.geteuid() != 0, reason="takes root to give files away")
def test_nothing_is_loaded_from_the_folder_of_another_user(load, libraries, trap):
    libraries[0].write_bytes(trap)
    os.chown(libraries[0].parent, 12345, 12345)
    answers, messages = load()
    assert answers == "None None"
    assert "other users can write" in messages


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"EGEUNET_KERNELS": "0"}, ""),
        ({"CC": "no-such-compiler"}, "no C compiler was found"),
        ({"CC": "false"}, "returned non-zero exit status"),
    ],
)
def test_without_a_compiler_there_is_one_warning(load, settings, said):
    answers, messages = load(**settings)
    assert answers == "None None"
    assert messages.count("\n") == bool(said)
    assert said in messages


@needs_compiler
def test_two_processes_may_compile_at_once(tmp_path):
    source = tmp_path / "one.c"
    source.write_text("int answer(void) { return 42; }\n")
    environment = {**os.environ, "EGEUNET_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", LOAD, source]
    processes = [subprocess.Popen(command, env=environment, stdout=-1) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == [b"42\n"] * 2
    assert len(list((tmp_path / "compiled").iterdir())) == 1
