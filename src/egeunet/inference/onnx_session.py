"""A graph in ONNX Runtime, on the providers that are wanted, held to the form of our exports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.onnx_check import read_onnx
from egeunet.inference.weights import SHIPPED, Metadata, parse_metadata

if TYPE_CHECKING:
    import onnxruntime

Provider: TypeAlias = str | tuple[str, Mapping[str, Any]]
"""The name of a provider, or that and its options."""

# Limits on the process that infers the shapes of a graph.
_CHECK_BYTES = 2**30  # of address space; graphs of 400 operators take 150 MB
_CHECK_SECONDS = 5  # of the processor; 0.4 of which start ONNX Runtime
_CHECK_TIMEOUT = 120  # seconds of waiting on a busy machine


def open_session(
    path: Path, data: bytes, providers: Sequence[Provider]
) -> onnxruntime.InferenceSession:
    """Have ONNX Runtime load a graph, for one thread a call.

    Args:
        path: Path of an ONNX file.
        data: Its bytes.
        providers: As for `Segmenter`.

    Raises:
        EgeunetError: The file is no graph that can be run, or ONNX Runtime is not installed.
        UsageError: A provider is not installed or cannot start.
    """
    try:
        import onnxruntime  # here, because `import egeunet` shall not wait for it
    except ModuleNotFoundError as error:
        raise EgeunetError(
            "This needs ONNX Runtime, which is not installed: pip install onnxruntime."
        ) from error

    wanted = _find_providers(providers, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong with a file is said below, in one sentence
    # ONNX Runtime would take a file with its own mark for its own format, which is not checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if path.parent != SHIPPED:  # those are known by their SHA-256
        _check(data, path)
    try:
        session = onnxruntime.InferenceSession(data, options, list(wanted), list(wanted.values()))
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        raise _damaged(path) from error
    for provider in wanted:
        if provider not in session.get_providers():  # ONNX Runtime would go on without it
            raise UsageError(
                f"{provider} cannot start here: install its libraries, or leave it out."
            )
    return session


def _check(data: bytes, path: Path) -> None:
    """Refuse a graph that could read files, run without end or take too much memory."""
    found = read_onnx(data, str(path))
    metadata = parse_metadata(found.metadata, str(path))
    if found.inputs != ["image"]:
        raise _wrong_form(path, metadata)
    found.check_shapes(_infer_shapes(found.skeleton(metadata.size), path), str(path))


def _infer_shapes(skeleton: bytes, path: Path) -> dict[str, list[int | str | None]]:
    """Return the shape of every value, found by ONNX Runtime in a process of its own.

    A crafted graph can abort shape inference, or make it run for minutes and fill the memory.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import write_shapes as f; f()"
    command = [sys.executable, "-c", code]  # sys.path: not the current folder unless it is ours
    try:
        done = subprocess.run(command, input=skeleton, capture_output=True, timeout=_CHECK_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise _damaged(path) from error
    if done.returncode:
        raise _damaged(path)
    shapes: dict[str, list[int | str | None]] = json.loads(done.stdout)
    return shapes


def write_shapes() -> None:
    """Write the shapes of inputs and outputs of the graph in standard input, as JSON."""
    with suppress(ImportError):  # Windows has no such limits
        import resource

        limits = {resource.RLIMIT_CPU: _CHECK_SECONDS, resource.RLIMIT_AS: _CHECK_BYTES}
        for kind, limit in limits.items():
            hard = resource.getrlimit(kind)[1]
            least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(kind, (least, least))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.load_model_format", "ONNX")
    skeleton = sys.stdin.buffer.read()
    session = onnxruntime.InferenceSession(skeleton, options, ["CPUExecutionProvider"])
    values = [*session.get_inputs(), *session.get_outputs()]
    json.dump({one.name: one.shape for one in values}, sys.stdout)


def _damaged(path: Path) -> EgeunetError:
    return EgeunetError(
        f"{path} is not an ONNX graph that can be run, or is damaged: expected a file that "
        "`egeunet export` wrote."
    )


def _wrong_form(path: Path, metadata: Metadata) -> EgeunetError:
    size, classes = metadata.size, len(metadata.classes)
    return EgeunetError(
        f"{path} does not take `image` (B, 3, {size[0]}, {size[1]}) and give `logits` "
        f"(B, {classes}, {size[0]}, {size[1]}): expected model.onnx of `egeunet export`, or "
        "another format of that one size."
    )


def _find_providers(
    wanted: Sequence[Provider], available: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the options of providers by their full names, the CPU at last."""

    def short(name: str) -> str:
        return name.removesuffix("ExecutionProvider").lower()

    known = {short(one): one for one in available}
    found: dict[str, dict[str, Any]] = {}
    for one in (*wanted, "cpu"):
        name, options = (one, {}) if isinstance(one, str) else one
        if short(name) not in known:
            raise UsageError(
                f"ONNX Runtime has no provider {name!r} here: expected one of {', '.join(known)}."
            )
        found.setdefault(known[short(name)], dict(options))
    return found


def check_graph(session: onnxruntime.InferenceSession, path: Path) -> Metadata:
    """Hold a graph to the form that `egeunet export` gives it, and return its metadata.

    Raises:
        EgeunetError: It has another form.
    """
    metadata = parse_metadata(session.get_modelmeta().custom_metadata_map, str(path))
    given = [
        [(one.name, one.type, one.shape[1:]) for one in ends]
        for ends in (session.get_inputs(), session.get_outputs())
    ]
    size = list(metadata.size)
    expected = [
        [("image", "tensor(float)", [3, *size])],
        [("logits", "tensor(float)", [len(metadata.classes), *size])],
    ]
    if given != expected:
        raise _wrong_form(path, metadata)
    return metadata
