"""Several trainings at a time on one machine, and trainings on several devices: their processes.

One network of this size fills neither a GPU nor several cores. A process is `egeunet train` on the
recipe in its run folder, one for each device of a training: the same code on every device, and a
training that crashes takes no other with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import IO

import torch

from egeunet.data.cache import load_arrays
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError, InterruptedRunError, UsageError
from egeunet.reporting import Bar, Reporter
from egeunet.training.config import Recipe
from egeunet.training.distillation import pin_runs
from egeunet.training.distributed import check_devices, rank_variables, world_size
from egeunet.training.run import check_folder, describe_epoch, open_split, read_history
from egeunet.training.signals import StopRequest

LOG = "train.log"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_INTERVAL = 0.3  # seconds between looks at the processes
_PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal that a process gets when its parent ends
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def train_side_by_side(
    recipes: Sequence[Recipe],
    *,
    resume: bool = False,
    at_once: int | None = None,
    finished: Callable[[Path], object] | None = None,
    reporter: Reporter | None = None,
) -> list[Path]:
    """Train each recipe in processes of its own; every result is that of a training alone.

    What a training says is in `train.log` in its run folder. One that fails stops no other; when
    one process of a training fails, the others of it are ended. When this process is killed, on
    Linux its children are killed as well; all of it can be resumed.

    Args:
        recipes: Each with a run folder of its own.
        resume: Go on from the checkpoints in the run folders.
        at_once: How many at a time. None: on the CPU one process per core, the cores shared
            evenly; on CUDA all of them, shared evenly by the GPUs.
        finished: Called with the folder of each run as soon as it is trained; when it raises an
            EgeunetError or OSError, that training counts as failed.
        reporter: Hears of every finished epoch.

    Returns:
        The run folders.

    Raises:
        UsageError: If a folder holds another run, or a run and `resume` is off; if a recipe asks
            for devices that are not there.
        InterruptedRunError: After SIGINT or SIGTERM; every training has written its checkpoint.
        EgeunetError: If the data are unusable, or trainings failed; the others are finished.
    """
    reporter = reporter or Reporter()
    if world_size() > 1:
        raise UsageError("Several seeds start processes of their own: leave torchrun out.")
    recipes = [pin_runs(recipe) for recipe in recipes]
    folders = [check_folder(recipe, resume) for recipe in recipes]
    for recipe in recipes:
        check_devices(recipe, recipe.devices)
    _decode(recipes)
    at_once = min(at_once or default_at_once(recipes), len(recipes))
    devices = max(recipe.devices for recipe in recipes)
    threads = max(1, count_cores() // (at_once * devices))
    many = [f"{len(recipes)} trainings, {at_once} at a time"] if len(recipes) > 1 else []
    shared = [f"{devices} processes for each batch"] if devices > 1 else []
    reporter.info(", ".join([*many, *shared, f"threads of a process: {threads}"]))
    waiting, running = list(recipes), list[_Training]()
    failed: dict[Path, str] = {}
    total = sum(recipe.trainer.epochs for recipe in recipes)

    def fail(folder: Path, error: Exception) -> None:
        failed[folder] = str(error).removesuffix(".")
        if running or waiting:
            reporter.warn(f"{folder} failed: {failed[folder]}")

    with StopRequest() as stop, reporter.bar("epochs", total) as bar:
        try:
            while running or (waiting and not stop.signal_number):
                while waiting and len(running) < at_once and not stop.signal_number:
                    recipe = waiting.pop(0)
                    try:
                        gpu = _least_used_gpu(recipe, [one.gpu for one in running])
                        running.append(_Training(recipe, threads, bar, gpu))
                    except EgeunetError as error:
                        fail(recipe.out, error)
                time.sleep(_INTERVAL)
                for one in list(running):
                    if stop.signal_number:
                        one.stop()
                    code = one.poll()
                    one.report(reporter)
                    if code is None:
                        continue
                    running.remove(one)
                    if stop.signal_number and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
                        continue  # it saved where it was
                    try:
                        one.conclude(code, finished)
                    except (EgeunetError, OSError) as error:  # such as a full disk
                        fail(one.folder, error)
        finally:
            for one in running:
                one.kill()
    again = "the same command" if resume else "the same command and --resume"
    reasons = "; ".join(f"{folder}: {reason}" for folder, reason in failed.items())
    if stop.signal_number:
        others = f" but those that failed ({reasons})" if failed else ""
        raise InterruptedRunError(
            f"Stopped, and every training{others} has saved where it was: go on with {again}.",
            stop.signal_number,
        )
    if failed:
        raise EgeunetError(
            f"{len(failed)} of {len(recipes)} trainings failed ({reasons}): mend that and go on "
            f"with {again}; what was said is in {LOG} in the folder."
        )
    return folders


def default_at_once(recipes: Sequence[Recipe]) -> int:
    """Return how many trainings run at a time where nobody says: see `train_side_by_side`."""
    on_cuda = torch.cuda.is_available() and any(recipe.device != "cpu" for recipe in recipes)
    devices = max(recipe.devices for recipe in recipes)
    return len(recipes) if on_cuda else max(1, count_cores() // devices)


def _decode(recipes: Sequence[Recipe]) -> None:
    """Fill the cache once, not in every process; wrong data are named before any starts."""
    for data in {recipe.data.model_dump_json(): recipe.data for recipe in recipes}.values():
        _, split = open_split(data)
        for samples in (split.train, split.val):
            load_arrays(samples, data.shape, data.num_classes)


def _least_used_gpu(recipe: Recipe, used: Sequence[str | None]) -> str | None:
    """Return the GPU for a training on one of several, as `CUDA_VISIBLE_DEVICES` names it."""
    count = torch.cuda.device_count()
    if recipe.device == "cpu" or recipe.devices > 1 or count < 2:
        return None
    mine = os.environ.get(_VISIBLE)
    names = mine.split(",")[:count] if mine else [str(index) for index in range(count)]
    return min(names, key=list(used).count)


class _Training:
    """A training under way."""

    def __init__(self, recipe: Recipe, threads: int, bar: Bar, gpu: str | None) -> None:
        self.gpu = gpu
        self.folder, self.epochs, self.bar = recipe.out, recipe.trainer.epochs, bar
        self.told_to_stop = False
        self.processes: list[Popen[bytes]] = []
        path = self.folder / "recipe.yaml"
        try:
            self.seen = len(read_history(self.folder))
            bar.advance(self.seen)
            recipe.write(path)
            with (self.folder / LOG).open("a", encoding="utf-8") as log:
                visible = {} if gpu is None else {_VISIBLE: gpu}
                for variables in rank_variables(recipe.devices):
                    variables = {**variables, **visible}
                    self.processes.append(_start(path, log, threads, variables))
        except OSError as error:
            self.kill()
            raise EgeunetError(f"It cannot start: {error}.") from error

    def poll(self) -> int | None:
        """Return its exit code, or None while it goes on; if one process fails, so do all."""
        codes = [process.poll() for process in self.processes]
        failed = min((code for code in codes if code), default=0)  # a kill before its consequences
        if failed and not self.told_to_stop:
            self.kill()
            return failed
        return None if None in codes else failed

    def kill(self) -> None:
        """End it at once."""
        for process in self.processes:
            process.kill()
            process.wait()

    def report(self, reporter: Reporter) -> None:
        """Say which epochs were finished since the last time."""
        for row in read_history(self.folder)[self.seen :]:
            self.seen += 1
            reporter.info(f"{self.folder.name}: {describe_epoch(row, self.epochs)}")
            self.bar.advance()

    def stop(self) -> None:
        """Ask for the checkpoint and the end, once."""
        if not self.told_to_stop:
            self.told_to_stop = True
            for process in self.processes:
                with suppress(OSError):
                    process.terminate()

    def conclude(self, code: int, finished: Callable[[Path], object] | None) -> None:
        """Raise an error that says why it failed; call `finished` where it did not."""
        if code:
            raise EgeunetError(self._last_words(code))
        if finished:
            finished(self.folder)

    def _last_words(self, code: int) -> str:
        """Its own error, or how it ended and what it said last."""
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        if last.startswith("error: "):
            return last.removeprefix("error: ")
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"a process ended with {end} after {last!r}"


def _start(recipe: Path, log: IO[str], threads: int, variables: dict[str, str]) -> Popen[bytes]:
    own = {**variables, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    return Popen(
        [sys.executable, "-m", "egeunet", "train", str(recipe), "--resume"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env={**os.environ, **own},
        # The terminal's Ctrl-C goes to this process alone, which hands it on once: a second signal
        # would end a training while it writes its checkpoint.
        start_new_session=True,
        preexec_fn=_die_with_parent if _LIBC else None,
    )


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends: a run folder has one writer."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
