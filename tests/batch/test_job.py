"""The whole job with Ray: killed at any moment and started again, it leaves the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

ray = pytest.importorskip("ray", reason="no ray: pip install 'egeunet[batch]'")

MANY, SIZE = 120, 5
WORDS = ("--shard-size", SIZE, "--workers", 2)


@pytest.fixture(scope="module")
def calm(program, many, tmp_path_factory) -> Path:
    """What the program writes when nothing goes wrong."""
    output = tmp_path_factory.mktemp("calm") / "out"
    out, err = program.run(many, "-o", output, *WORDS, "--json", expected=1)
    assert err == ""
    assert json.loads(out) == json.loads((output / "summary.json").read_text())
    return output


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "parts").iterdir()}


def descendants(process: subprocess.Popen) -> dict[int, str]:
    """Return the processes below one, with their command lines."""
    listing = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid=,args="], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listing.splitlines()]
    found = {process.pid: ""}
    for _ in range(4):  # driver, raylet, worker
        found |= {int(pid): args for pid, parent, args in rows if int(parent) in found}
    del found[process.pid]
    return found


def wait_for_parts(process: subprocess.Popen, folder: Path, least: int) -> None:
    end = time.monotonic() + 600
    while len(list((folder / "parts").glob("part-*"))) < least:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_every_photo_has_its_row_and_the_summary_counts_them(calm, many):
    summary = json.loads((calm / "summary.json").read_text())
    expected = {"images": MANY, "errors": 1, "parts": MANY // SIZE, "segmented": MANY - 1}
    assert summary | expected == summary
    assert sorted(parts(calm)) == [f"part-{n:05}.parquet" for n in range(MANY // SIZE)]
    rows = pq.read_table(calm / "parts").to_pylist()
    assert [row["id"] for row in rows] == [str(path) for path in sorted(many.rglob("*.jpg"))]
    assert [row["id"] for row in rows if row["error"]] == [f"{many}/a/010.jpg"]
    assert {row["weights"] for row in rows} == {summary["weights"]}


@pytest.mark.slow
def test_killed_workers_and_a_killed_driver_change_nothing(program, many, calm, tmp_path):
    process = program.start(many, "-o", tmp_path, *WORDS)
    try:
        for least in (2, 6):
            wait_for_parts(process, tmp_path, least)
            workers = [p for p, args in descendants(process).items() if "ray::MapWorker" in args]
            os.kill(workers[0], signal.SIGKILL)
        wait_for_parts(process, tmp_path, 10)
    finally:
        process.kill()
        process.communicate()
    assert 10 <= len(list((tmp_path / "parts").glob("part-*"))) < MANY // SIZE
    (tmp_path / "parts" / ".part-00023-abcd1234.parquet").write_bytes(b"half a part")

    out, _ = program.run(many, "-o", tmp_path, *WORDS, "--json", expected=1)
    assert parts(tmp_path) == parts(calm)
    summary = json.loads(out)
    assert (summary["images"], summary["errors"]) == (MANY, 1)
    assert 0 < summary["segmented"] < MANY


@pytest.mark.slow
def test_ctrl_c_leaves_whole_parts_and_says_how_to_go_on(program, many, calm, tmp_path):
    process = program.start(many, "-o", tmp_path, *WORDS)
    wait_for_parts(process, tmp_path, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (130, "")
    *_, last = err.splitlines()  # Ray may tell before that a task was killed
    assert last == f"Interrupted: {tmp_path} keeps what is written; run the same command to resume."
    written = {name: data for name, data in parts(tmp_path).items() if name.startswith("part")}
    assert written.items() <= parts(calm).items()
    assert not (tmp_path / "summary.json").exists()


def test_a_finished_job_is_not_done_again(program, many, calm):
    before = parts(calm)
    out, _ = program.run(many, "-o", calm, *WORDS, expected=1)
    assert out == f"{calm}: 119 segmented, 1 failed, 120 done before\n"
    assert parts(calm) == before


def test_other_photos_and_settings_are_refused(program, many, calm):
    _, err = program.run(many, "-o", calm, "--shard-size", 9, expected=2)
    assert "belongs to a job with other settings (shard size)" in err
    _, err = program.run(many / "a", "-o", calm, *WORDS, expected=2)
    assert "belongs to a job with other settings (inputs)" in err


def test_a_cluster_that_is_not_there_is_one_sentence_and_leaves_no_plan(program, images, tmp_path):
    words = (images[0].parent, "-o", tmp_path / "out", "--address", "127.0.0.1:9")
    _, err = program.run(*words, expected=1)
    assert err.startswith("error: Cannot connect to Ray at 127.0.0.1:9: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc on this system")
def test_a_local_ray_is_private_and_ends_with_its_job(program, many, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    process = program.start(many, "-o", tmp_path / "out", *WORDS, HOME=str(home))
    try:
        wait_for_parts(process, tmp_path / "out", 1)
        pids = [process.pid, *descendants(process)]
        assert len(pids) > 4  # driver, gcs, raylet, workers
        addresses = listening(pids)
        assert addresses
        assert all(one.is_loopback for one in addresses), addresses
        assert not list(home.rglob("*token*"))
        folders = [path for path in Path("/tmp").glob("egeunet-ray-*") if path.is_dir()]
        assert folders
        assert all(path.stat().st_mode & 0o077 == 0 for path in folders)
    finally:
        process.kill()
        process.communicate()
    end = time.monotonic() + 600
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < end, left
        time.sleep(0.5)


def listening(pids: list[int]) -> set[IPv4Address | IPv6Address]:
    """Return the addresses at which processes listen."""
    inodes = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                inodes.add(str(handle.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes:
                words = local.partition(":")[0]
                packed = b"".join(
                    bytes.fromhex(words[start : start + 8])[::-1]
                    for start in range(0, len(words), 8)
                )
                address = ip_address(packed)
                found.add(getattr(address, "ipv4_mapped", None) or address)
    return found


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_without_ray_the_message_names_the_extra(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code = (
        "import sys; sys.modules['ray'] = None; from egeunet.cli.main import main;"
        f"sys.argv = ['egeunet', 'batch', {str(tmp_path)!r}, '-o', 'x']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("pip install 'egeunet[batch]'.\n")
