"""Segmentation of images with exported weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from numpy.typing import NDArray

from egeunet.compat import keep_freed_memory
from egeunet.environment import count_cores
from egeunet.errors import EgeunetError, UsageError
from egeunet.files import is_url, sha256_file
from egeunet.inference.image_io import (
    MAX_BYTES,
    Snapshot,
    Source,
    list_sources,
    read_reduced,
    source_name,
    take_snapshot,
)
from egeunet.inference.network import open_network
from egeunet.inference.paths import find_images
from egeunet.inference.postprocess import postprocess
from egeunet.inference.prefetch import prefetch_map
from egeunet.inference.preprocess import to_input
from egeunet.inference.result import Result
from egeunet.inference.weights import Backend, find_weights, weights_name

if TYPE_CHECKING:
    from egeunet.inference.onnx_session import Provider

_OVERSAMPLING = 2  # a large JPEG is decoded at no less than this times the network's size
_MAX_THREADS = 8  # by default, to limit memory


class Segmenter:
    """A trained model that segments images.

    Args:
        weights: A run folder, an .egeu or .onnx file from `egeunet export`, the name of shipped
            weights ("isic2018", the default), or `https://…/x.onnx#sha256=…`.
        backend: "engine" (the package's own C code, for EGE-UNet) or "onnxruntime". Default: what
            the file is for; of a name or run folder the engine's file if there is one and this
            installation has the engine, and no providers are given.
        threads: Images of a list or stream that are processed at a time. Default: one per core, at
            most 8. One image uses one thread: the network is too small to gain from more.
        providers: ONNX Runtime execution providers in order of preference, such as "cuda",
            "coreml", "nnapi", "openvino" or "webgpu" where the installed build has them, in full
            ("CUDAExecutionProvider") or short; in a list also with their options,
            `("cuda", {"device_id": 1})`. Falls back to the CPU, which is the default.
        threshold: Pixels with this probability or more are in the mask, between 0 and 1. Default:
            the threshold in the weights. Not for models of several classes.
        tta: Test-time augmentation: average over the image and its three mirror images, at four
            times the cost.
        largest_component: Keep only the largest component of the mask. One class only.
        fill_holes: Fill the holes of the mask. One class only.
        max_bytes: Memory that reading one image may take (see
            `egeunet.inference.image_io.read_image`); up to `threads` are read at a time.

    Attributes:
        backend: What runs the network, "engine" or "onnxruntime".
        metadata: Metadata of the weights.
        weights: Their name, "@" and SHA-256.
        threshold: The threshold in use.

    Raises:
        EgeunetError: The weights are missing, damaged, or not from `egeunet export`; or the
            backend is not installed.
        UsageError: A setting is out of range, the weights are for the other backend, or a provider
            is not installed or cannot start.

    Example:
        >>> result = Segmenter("isic2018")("image.jpg")
        >>> result.area, result.box
        >>> result.save("mask.png")
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        backend: Backend | None = None,
        threads: int | None = None,
        providers: str | Sequence[Provider] | None = None,
        threshold: float | None = None,
        tta: bool = False,
        largest_component: bool = False,
        fill_holes: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}: expected 1 or more.")
        if threshold is not None and not 0 < threshold < 1:
            raise UsageError(f"The threshold is {threshold}: expected a number between 0 and 1.")
        if backend not in (None, "engine", "onnxruntime"):
            raise UsageError(f"The backend is {backend!r}: expected 'engine' or 'onnxruntime'.")
        keep_freed_memory()
        self._providers = [providers] if isinstance(providers, str) else list(providers or ())
        if self._providers and backend is None:
            backend = "onnxruntime"
        path = find_weights(weights, backend)
        self._path = path.absolute()
        network = open_network(path, backend, self._providers)
        self._run, self.backend, self.metadata = network.run, network.backend, network.metadata
        self.weights = f"{weights_name(path)}@{sha256_file(path)}"
        for_one_class = threshold is not None or largest_component or fill_holes
        if for_one_class and len(self.metadata.classes) > 1:
            raise UsageError(
                f"{path} segments several classes: threshold, largest_component and fill_holes are "
                "for one class."
            )
        self.threads = threads or min(_MAX_THREADS, count_cores())
        self.max_bytes = max_bytes
        self.tta = tta
        self.largest_component, self.fill_holes = largest_component, fill_holes
        self.threshold = self.metadata.threshold if threshold is None else float(threshold)

    def __reduce__(self) -> tuple[Callable[[], Segmenter], tuple[()]]:
        """Pickle the path of the weights and the settings: other processes open the file anew."""
        reopen = partial(
            type(self),
            self._path,
            threads=self.threads,
            providers=self._providers,
            threshold=self.threshold if len(self.metadata.classes) == 1 else None,
            tta=self.tta,
            largest_component=self.largest_component,
            fill_holes=self.fill_holes,
            max_bytes=self.max_bytes,
        )
        return reopen, ()

    @overload
    def __call__(self, image: list[Source] | tuple[Source, ...]) -> list[Result]: ...
    @overload
    def __call__(self, image: Source) -> Result: ...
    def __call__(self, image: Source | list[Source] | tuple[Source, ...]) -> Result | list[Result]:
        """Segment one image, or each image of a list or batch.

        Args:
            image: A path, a URL, the bytes of an image file, an open binary file, a Pillow image or
                an array (see `egeunet.inference.image_io.read_image`); a list or tuple of these, or
                an array (N, H, W, C).

        Returns:
            One result, or a list of them in the same order.

        Raises:
            EgeunetError: An image cannot be read.
        """
        if isinstance(image, (list, tuple)) or (isinstance(image, np.ndarray) and image.ndim == 4):
            return list(self.stream(image))
        return self.segment(take_snapshot(image, max_bytes=self.max_bytes), source_name(image))

    @overload
    def stream(
        self,
        images: Source | Iterable[Source],
        *,
        recursive: bool = False,
        on_error: Literal["raise"] = "raise",
    ) -> Generator[Result, None, None]: ...
    @overload
    def stream(
        self,
        images: Source | Iterable[Source],
        *,
        recursive: bool = False,
        on_error: Literal["return"],
    ) -> Generator[Result | EgeunetError, None, None]: ...
    def stream(
        self,
        images: Source | Iterable[Source],
        *,
        recursive: bool = False,
        on_error: Literal["raise", "return"] = "raise",
    ) -> Iterator[Result | EgeunetError]:
        """Segment images in threads, and yield the results in order.

        Args:
            images: A folder, a glob pattern, one image, or any iterable of images, such as an array
                (N, H, W, C). It is read only a few images ahead, so that memory stays bounded.
                Arrays, Pillow images and open files are read when they are taken from it: the next
                may be the same object, changed.
            recursive: Include the folder's subfolders.
            on_error: "raise" ends the stream at an image that cannot be read; "return" yields the
                `EgeunetError` in the place of its result and continues.

        Yields:
            One result per image, in order; where images come slowly, when the next one is there.

        Raises:
            EgeunetError: An image cannot be read. What the iterable itself raises comes after the
                results of the images before.
        """
        if on_error not in ("raise", "return"):
            raise UsageError(f"on_error is {on_error!r}: expected 'raise' or 'return'.")
        if isinstance(images, (str, os.PathLike)) and not is_url(images):
            images = list(find_images([os.fspath(images)], recursive))

        def run(item: tuple[Snapshot | EgeunetError, str | None]) -> Result | EgeunetError:
            try:
                snapshot, name = item
                if isinstance(snapshot, EgeunetError):
                    return snapshot
                return self.segment(snapshot, name)
            except EgeunetError as error:
                return error

        # What is taken now, its owner may change as soon as the next one is asked for.
        items = ((self._take(image), source_name(image)) for image in list_sources(images))
        # More than the threads: a slow image should not stop the others.
        limit = 2 * self.threads + 1
        results = prefetch_map(run, items, threads=self.threads, limit=limit)
        try:
            for result in results:
                if on_error == "raise" and isinstance(result, EgeunetError):
                    raise result
                yield result
        finally:
            results.close()

    def segment(self, snapshot: Snapshot, name: str | None = None) -> Result:
        """Segment one image under a given name.

        Args:
            snapshot: A path, a URL, the bytes of an image file, or RGB, uint8 (H, W, 3).
            name: Name of the image, for its result and its errors.

        Raises:
            EgeunetError: The image cannot be read.
        """
        size = self.metadata.size
        least = _OVERSAMPLING * max(size)
        try:
            whole, kept = read_reduced(snapshot, least, name, max_bytes=self.max_bytes)
            image = to_input(whole, size)
            del whole  # a large one should not wait for the network
            logits = self.logits(image[None])[0]
        except MemoryError as error:
            raise EgeunetError(f"{name or 'The image'} needs more memory than there is.") from error
        if not np.isfinite(logits.sum()):  # NaN and infinity spread to the sum
            raise EgeunetError(
                "The network returned values that are not finite: the weights are damaged. Export "
                "them again."
            )
        scores = sigmoid(logits[0]) if len(logits) == 1 else _softmax(logits)
        estimator = self.metadata.quality
        quality = estimator.estimate(scores, self.tta) if estimator else None
        if self.largest_component or self.fill_holes:
            scores = postprocess(scores, self.threshold, self.largest_component, self.fill_holes)
        return Result(
            encoded=kept,
            scores=scores,
            threshold=self.threshold,
            classes=self.metadata.classes,
            source=name,
            quality=quality,
        )

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; with `tta` also over the mirror images.

        Args:
            images: float32 (B, 3, h, w) of the size in `metadata`, as
                `egeunet.inference.preprocess.to_input` makes them.

        Returns:
            float32 (B, K, h, w).
        """
        return average_mirrors(self._run, images) if self.tta else self._run(images)

    def _take(self, image: Source) -> Snapshot | EgeunetError:
        try:
            return take_snapshot(image, max_bytes=self.max_bytes)
        except EgeunetError as error:
            return error


def average_mirrors(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the mean of the logits over the four mirror images, mirrored back.

    Args:
        run: From images (B, 3, h, w) to logits (B, K, h, w).
        images: float32 (B, 3, h, w).

    Returns:
        float32 (B, K, h, w).
    """
    total: NDArray[np.float32] = np.zeros(1, np.float32)
    for axes in ((), (2,), (3,), (2, 3)):
        mirrored = np.ascontiguousarray(np.flip(images, axes))
        total = total + np.flip(run(mirrored), axes)
    return total / np.float32(4)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities, without overflow at any logit."""
    return np.float32(0.5) + np.float32(0.5) * np.tanh(logits * np.float32(0.5))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)
