"""A graph in ONNX Runtime, on the providers that are wanted, held to the form of our exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.weights import Metadata, parse_metadata

if TYPE_CHECKING:
    import onnxruntime

Provider: TypeAlias = str | tuple[str, Mapping[str, Any]]
"""The name of a provider, or that and its options."""


def open_session(path: Path, providers: Sequence[Provider]) -> onnxruntime.InferenceSession:
    """Have ONNX Runtime load a graph, for one thread a call.

    Args:
        path: An ONNX file.
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
    try:
        # From bytes: a graph read so cannot have ONNX Runtime open other files that it names.
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, list(wanted), list(wanted.values())
        )
    except OSError as error:
        raise EgeunetError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:
        # ONNX Runtime's errors share no class of their own.
        raise EgeunetError(
            f"{path} is not an ONNX graph that can be run, or is damaged: expected a file that "
            "`egeunet export` wrote."
        ) from error
    for provider in wanted:
        if provider not in session.get_providers():  # ONNX Runtime would go on without it
            raise UsageError(
                f"{provider} cannot start here: install its libraries, or leave it out."
            )
    return session


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
        raise EgeunetError(
            f"{path} does not take `image` (B, 3, {size[0]}, {size[1]}) and give `logits` "
            f"(B, {len(metadata.classes)}, {size[0]}, {size[1]}): expected model.onnx of "
            "`egeunet export`, or another format of that one size."
        )
    return metadata
