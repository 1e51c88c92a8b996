"""Progress bars: silent off a terminal, shown on one, nested bars share one display."""

import os
import pty
import subprocess
import sys

CODE = """
from egeunet.progress import bar, set_progress, track
{setup}
total = 0
with bar("outer", 2) as advance:
    for item in track([1, 2], "inner"):
        total += item
        advance(1, loss=0.25)
print(total)
"""


def run_on_terminal(setup=""):
    """Return what a process writes to a terminal that is its stderr."""
    master, slave = pty.openpty()
    code = CODE.format(setup=setup)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=slave, stdout=subprocess.PIPE, env=environment
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            block = os.read(master, 65536)
        except OSError:  # the terminal is closed
            break
        if not block:
            break
        shown += block
    os.close(master)
    assert process.communicate()[0] == b"3\n"
    assert process.returncode == 0
    return shown.decode()


def test_bars_are_silent_when_stderr_is_not_a_terminal():
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(setup="")], capture_output=True, check=True, text=True
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_nested_bars_appear_on_a_terminal_with_their_values():
    shown = run_on_terminal()
    assert "outer" in shown
    assert "inner" in shown


def test_bars_can_be_switched_off():
    assert run_on_terminal("set_progress(False)") == ""


def test_track_yields_every_item_of_an_iterator():
    from egeunet.progress import track

    assert list(track(iter(range(5)), "items")) == [0, 1, 2, 3, 4]
