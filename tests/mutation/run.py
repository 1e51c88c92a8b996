"""Mutation testing: change one place of a module at a time, and see whether its tests notice.

    python tests/mutation/run.py --named                     # the wiring mutants, all must die
    python tests/mutation/run.py --minutes 25 --seed 0       # a random sample over all modules

Libraries are imported once; each mutant runs in a fork, where an import hook replaces the source of
one module. Tests that start processes of their own see the original. Survivors are printed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "egeunet"
TIMEOUT = 600  # seconds for the tests of one mutant

WIRING = ["training/test_wiring.py"]
# module: the test files that are expected to notice a change of it
TARGETS = {
    "training/checkpoints": ["training/test_checkpoints.py", "training/test_hostile_runs.py"],
    "training/ema": ["training/test_ema.py"],
    "training/losses": ["training/test_losses.py"],
    "training/optimizers": ["training/test_optimizers.py", *WIRING],
    "training/provenance": ["training/test_distillation.py"],
    "training/recipe": ["training/test_recipe.py", "training/test_hostile_runs.py"],
    "training/soap": ["training/test_soap.py"],
    "training/step": WIRING,
    "training/trainer": [*WIRING, "training/test_trainer.py"],
    "training/validation": [*WIRING, "training/test_trainer.py"],
    "data/loader": ["data/test_loader.py", *WIRING],
    "data/augmentation/geometry": [
        "data/augmentation/test_geometry.py",
        "data/augmentation/test_color.py",
    ],
    "data/augmentation/color": ["data/augmentation/test_color.py"],
    "data/augmentation/artifacts": ["data/augmentation/test_artifacts.py"],
    "metrics/counts": ["metrics/test_counts.py"],
    "metrics/surface": ["metrics/test_surface.py"],
}

# name: (module, text, its replacement, test files)
NAMED = {
    "AdamW is Adam": (
        "training/optimizers",
        "torch.optim.AdamW if settings.name",
        "torch.optim.Adam if settings.name",
        WIRING,
    ),
    "no weight decay": (
        "training/optimizers",
        "decay = list(model.parameters()), settings.lr, settings.weight_decay",
        "decay = list(model.parameters()), settings.lr, 0.0",
        WIRING,
    ),
    "learning rate one epoch late": (
        "training/trainer",
        "self.recipe.optimizer.lr, self.epoch, epochs",
        "self.recipe.optimizer.lr, max(0, self.epoch - 1), epochs",
        WIRING,
    ),
    "EMA counter reset each epoch": (
        "training/trainer",
        "self.ema.update(self.epoch * len(self.loader) + self.step)",
        "self.ema.update(self.step)",
        WIRING,
    ),
    "validation loss unweighted": (
        "training/validation",
        "* len(batch.ids)",
        "* (len(loader.arrays.ids) / len(loader))",
        WIRING,
    ),
    "augmentation settings ignored": (
        "training/trainer",
        "augmentation=recipe.augmentation,",
        "augmentation=type(recipe.augmentation)(),",
        WIRING,
    ),
    "distill.weight ignored": (
        "training/trainer",
        "            recipe.distill.weight,\n",
        "            1.0,\n",
        WIRING,
    ),
    "initial std 1": ("models/layers", "math.sqrt(2 / fan_out)", "math.sqrt(1 / fan_out)", WIRING),
    "rotation up to 180°": (
        "data/augmentation/geometry",
        "chance[3] * 360",
        "chance[3] * 180",
        ["data/augmentation/test_geometry.py"],
    ),
    "first stage weight": (
        "training/losses",
        "STAGE_WEIGHTS = (0.1, ",
        "STAGE_WEIGHTS = (0.3, ",
        [*WIRING, "training/test_losses.py"],
    ),
}

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[Callable[[ast.AST], None]]:
    """Yield what changes a copy of a node in place."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield lambda n: n.ops.__setitem__(0, COMPARISONS[type(n.ops[0])]())
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield lambda n: setattr(n, "op", ARITHMETIC[type(n.op)]())
    if isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield lambda n: setattr(n, "op", other())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield lambda n: setattr(n, "value", not n.value)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield lambda n: setattr(n, "op", ast.UAdd() if isinstance(n.op, ast.USub) else ast.Not())


def mutants(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, source) of every mutant of a module; annotations and docstrings stay."""
    tree = ast.parse(source)
    before = ast.unparse(tree)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if part is not None
        for inner in ast.walk(part)
    }
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in skipped:
            continue
        for number in range(len(list(changes(node)))):
            other = copy.deepcopy(tree)
            place = list(ast.walk(other))[index]
            list(changes(place))[number](place)
            text = ast.unparse(ast.fix_missing_locations(other))
            if text != before:
                yield node.lineno, text


class Replace(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook that gives one module another source."""

    def __init__(self, module: str, source: str) -> None:
        self.path = SOURCE / f"{module}.py"
        self.module, self.source = "egeunet." + module.replace("/", "."), source

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def exec_module(self, module):
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def killed(module: str, source: str, tests: list[str]) -> bool:
    """Return whether the tests fail with another source of a module."""
    pid = os.fork()
    if not pid:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.meta_path.insert(0, Replace(module, source))
        import pytest

        files = [str(ROOT / "tests" / test) for test in tests]
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        os._exit(int(pytest.main([*options, *files]) != 0))
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.1)
    os.killpg(pid, signal.SIGKILL)  # an endless loop is noticed as well
    os.waitpid(pid, 0)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--named", action="store_true", help="only the wiring mutants")
    parser.add_argument("--minutes", type=float, default=25, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("modules", nargs="*", help="such as training/losses; default: all")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("EGEUNET_KERNELS", "0")  # the formulas are what is changed
    sys.path.insert(0, str(ROOT / "src"))
    for name in ("torch", "pydantic", "lightning_fabric", "torch.utils.tensorboard", "pytest"):
        importlib.import_module(name)

    if options.named:
        jobs = []
        for name, (module, old, new, tests) in NAMED.items():
            source = (SOURCE / f"{module}.py").read_text(encoding="utf-8")
            assert source.count(old) == 1, f"{name}: {old!r} is not in {module}"
            jobs.append((name, module, source.replace(old, new), tests))
    else:
        jobs = [
            (f"{module}.py:{line}", module, text, tests)
            for module, tests in TARGETS.items()
            if not options.modules or module in options.modules
            for line, text in mutants((SOURCE / f"{module}.py").read_text(encoding="utf-8"))
        ]
        random.Random(options.seed).shuffle(jobs)
    end, counts = time.monotonic() + 60 * options.minutes, Counter()
    for name, module, text, tests in jobs:
        if time.monotonic() > end and not options.named:
            break
        dead = killed(module, text, tests)
        counts["killed" if dead else "survived"] += 1
        if options.named or not dead:
            print(f"{'killed  ' if dead else 'SURVIVED'} {name}", flush=True)
        if not dead and not options.named:
            before = ast.unparse(ast.parse((SOURCE / f"{module}.py").read_text("utf-8")))
            for old, new in zip(before.splitlines(), text.splitlines(), strict=False):
                if old != new:
                    print(f"    - {old.strip()}\n    + {new.strip()}", flush=True)
                    break
    print(f"{len(jobs)} mutants; tried {sum(counts.values())}: {dict(counts)}", flush=True)


if __name__ == "__main__":
    main()
