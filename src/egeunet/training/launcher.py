"""Several trainings at a time, and one training on several devices.

A process is `egeunet train` on the recipe in its run folder, one for each device of a training. A
training that fails stops no other.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import Popen

import torch

from egeunet.data.cache import load_arrays
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError, InterruptedRunError, UsageError
from egeunet.progress import bar
from egeunet.training.config import Recipe
from egeunet.training.distributed import check_devices, rank_variables, world_size
from egeunet.training.history import describe_epoch, read_history
from egeunet.training.init_from import pin_runs
from egeunet.training.run import check_folder, open_split
from egeunet.training.signals import StopRequest

LOG = "train.log"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_INTERVAL = 0.3  # seconds between looks at the processes
_PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal that a process gets when its parent ends
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_LOG = logging.getLogger(__name__)


def train_side_by_side(
    recipes: Sequence[Recipe],
    *,
    resume: bool = False,
    at_once: int | None = None,
    finished: Callable[[Path], object] | None = None,
) -> list[Path]:
    """Train recipes in separate processes; each result is the same as that of a training alone.

    The output of a training goes to `train.log` in its run folder. If one process of a training
    fails, its others are ended. On Linux the children are killed when this process is killed;
    everything can be resumed.

    Args:
        recipes: Recipes with different run folders.
        resume: Continue from the checkpoints in the run folders.
        at_once: Number of trainings at a time; see `default_at_once` for None.
        finished: Called with each run folder as soon as it is trained. If it raises an EgeunetError
            or OSError, the training counts as failed.

    Returns:
        The run folders.

    Raises:
        UsageError: If a folder holds another run, or a run and `resume` is off, or devices are
            missing.
        InterruptedRunError: After SIGINT or SIGTERM; every training has written its checkpoint.
        EgeunetError: If the data are unusable, or trainings failed; the others are finished.
    """
    if world_size() > 1:
        raise UsageError("Several seeds start their own processes: run them without torchrun.")
    recipes = [pin_runs(recipe) for recipe in recipes]
    folders = [check_folder(recipe, resume) for recipe in recipes]
    for recipe in recipes:
        check_devices(recipe, recipe.devices)
    _fill_cache(recipes)
    at_once = min(at_once or default_at_once(recipes), len(recipes))
    devices = max(recipe.devices for recipe in recipes)
    threads = max(1, count_cores() // (at_once * devices))
    _LOG.info(
        f"{len(recipes)} trainings, {at_once} at a time, {devices} processes each, {threads} "
        "threads per process"
    )
    waiting, running = list(recipes), list[_Training]()
    failed: dict[Path, str] = {}

    def fail(folder: Path, error: Exception) -> None:
        failed[folder] = str(error).removesuffix(".")
        if running or waiting:
            _LOG.warning("%s failed: %s", folder, failed[folder])

    total = sum(recipe.trainer.epochs for recipe in recipes)
    with StopRequest() as stop, bar("epochs", total) as advance:
        try:
            while running or (waiting and not stop.signal_number):
                while waiting and len(running) < at_once and not stop.signal_number:
                    recipe = waiting.pop(0)
                    try:
                        gpu = _least_used_gpu(recipe, [one.gpu for one in running])
                        running.append(_Training(recipe, threads, gpu, advance))
                    except EgeunetError as error:
                        fail(recipe.out, error)
                time.sleep(_INTERVAL)
                for one in list(running):
                    if stop.signal_number:
                        one.stop()
                    try:
                        if (code := one.poll()) is None:
                            continue
                        if finished and code == 0:
                            finished(one.folder)
                    except (EgeunetError, OSError) as error:  # such as a damaged history
                        one.kill()
                        fail(one.folder, error)
                    running.remove(one)
        finally:
            for one in running:
                one.kill()
    again = "the same command" if resume else "the same command and --resume"
    reasons = "; ".join(f"{folder}: {reason}" for folder, reason in failed.items())
    if stop.signal_number:
        others = f", except those that failed ({reasons})" if failed else ""
        raise InterruptedRunError(
            f"Stopped; every training has written its checkpoint{others}: resume with {again}.",
            stop.signal_number,
        )
    if failed:
        raise EgeunetError(
            f"{len(failed)} of {len(recipes)} trainings failed ({reasons}): fix the cause and "
            f"resume with {again}; the output is in {LOG} in the run folder."
        )
    return folders


def default_at_once(recipes: Sequence[Recipe]) -> int:
    """Return how many trainings run at a time by default: one process per core, all on CUDA."""
    on_cuda = torch.cuda.is_available() and any(recipe.device != "cpu" for recipe in recipes)
    devices = max(recipe.devices for recipe in recipes)
    return len(recipes) if on_cuda else max(1, count_cores() // devices)


def _fill_cache(recipes: Sequence[Recipe]) -> None:
    """Decode the data once, not in every process; wrong data are reported before any starts."""
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
    """The processes of one training."""

    def __init__(
        self, recipe: Recipe, threads: int, gpu: str | None, advance: Callable[..., None]
    ) -> None:
        self.folder, self.epochs, self.gpu = recipe.out, recipe.trainer.epochs, gpu
        self.advance, self.stopping = advance, False
        self.processes: list[Popen[bytes]] = []
        variables = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        if gpu is not None:
            variables[_VISIBLE] = gpu
        path = self.folder / "recipe.yaml"
        command = [sys.executable, "-m", "egeunet", "train", str(path), "--resume"]
        try:
            self.reported = len(read_history(self.folder))
            advance(self.reported)
            recipe.write(path)
            with (self.folder / LOG).open("a", encoding="utf-8") as log:
                for ranks in rank_variables(recipe.devices):
                    process = Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        env={**os.environ, **variables, **ranks},
                        # Ctrl-C of the terminal goes to this process alone, which passes it on
                        # once: a second signal would end a training while it writes its checkpoint.
                        start_new_session=True,
                        preexec_fn=_die_with_parent if _LIBC else None,
                    )
                    self.processes.append(process)
        except OSError as error:
            self.kill()
            raise EgeunetError(f"It cannot start: {error}.") from error

    def poll(self) -> int | None:
        """Log finished epochs; return the exit code if it has ended: 0, or that of SIGTERM.

        Raises:
            EgeunetError: If a process failed. The others are then killed, except after `stop`.
        """
        codes = [process.poll() for process in self.processes]
        history = read_history(self.folder)
        for epoch in range(self.reported + 1, len(history) + 1):
            self.reported = epoch
            _LOG.info("%s: %s", self.folder.name, describe_epoch(history[:epoch], self.epochs))
            self.advance()
        failed = min((code for code in codes if code), default=0)  # a kill before its consequences
        if None in codes and (self.stopping or not failed):
            return None
        if failed and not (self.stopping and failed in (-signal.SIGTERM, 128 + signal.SIGTERM)):
            self.kill()
            raise EgeunetError(self._last_words(failed))
        return failed

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Ask the processes once to write their checkpoint and end."""
        if not self.stopping:
            self.stopping = True
            for process in self.processes:
                process.terminate()  # does nothing to one that has ended

    def _last_words(self, code: int) -> str:
        """Return its error, or how it ended and the last line of its log."""
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        if last.startswith("error: "):
            return last.removeprefix("error: ")
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"a process ended with {end} after {last!r}"


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends: a run folder has one writer."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
