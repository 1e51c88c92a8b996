"""From photos to results, with ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from egeunet.environment import count_cores
from egeunet.errors import EgeunetError, UsageError
from egeunet.files import sha256_file
from egeunet.inference.fetch import is_url
from egeunet.inference.image_io import (
    MAX_BYTES,
    Snapshot,
    Source,
    list_sources,
    read_reduced,
    source_name,
    take_snapshot,
)
from egeunet.inference.onnx_session import Provider, check_graph, open_session
from egeunet.inference.paths import find_photos
from egeunet.inference.postprocess import tidy
from egeunet.inference.prefetch import work_ahead
from egeunet.inference.preprocess import to_input
from egeunet.inference.result import Result
from egeunet.inference.weights import find_weights, weights_name
from egeunet.memory import keep_freed_memory

_ENOUGH = 2  # times the network's size: a large JPEG is decoded no further than to this
_MOST_THREADS = 8  # by default, for the sake of memory


class Segmenter:
    """A trained network that segments photos.

    Args:
        weights: A run folder, an .onnx file from `egeunet export`, the name of weights that come
            with the package ("isic2018", the default), or `https://…/x.onnx#sha256=…`.
        threads: Photos of a list or stream that are in the network at a time, while a further one
            is decoded; by default as many as there are cores, 8 at most. One photo takes one
            thread: the network is too small to gain by more.
        providers: ONNX Runtime's execution providers in order of preference, such as "cuda",
            "coreml", "nnapi", "openvino" or "webgpu" where the installed build of ONNX Runtime has
            them, in full ("CUDAExecutionProvider") or short; in a list also with their options,
            `("cuda", {"device_id": 1})`. The CPU by default, and always last.
        threshold: Probability from which a pixel is lesion, between 0 and 1; by default what the
            weights say. Networks of several classes have none.
        tta: Average over the photo and its three mirror images: four times the work.
        largest_component: Keep the largest piece of the mask alone. One class only.
        fill_holes: Add what the mask surrounds. One class only.
        max_bytes: Memory that reading one image may take, see
            `egeunet.inference.image_io.read_image`; `threads` + 1 images are read at a time.

    Attributes:
        metadata: What the weights say of themselves.
        weights: Their name, "@" and SHA-256.
        threshold: The threshold in use.

    Raises:
        EgeunetError: The weights are missing, damaged, or not from `egeunet export`; or ONNX
            Runtime is not installed.
        UsageError: A setting is out of its range, or a provider is not installed or cannot start.

    Example:
        >>> result = Segmenter("runs/x")("photo.jpg")
        >>> result.area, result.box
        >>> result.save("mask.png")
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
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
        keep_freed_memory()
        path = find_weights(weights)
        self._path = path.absolute()
        self._providers = [providers] if isinstance(providers, str) else list(providers or ())
        self._session = open_session(path, self._providers)
        self.weights = f"{weights_name(path)}@{sha256_file(path)}"
        self.metadata = check_graph(self._session, path)
        own = threshold is not None or largest_component or fill_holes
        if own and len(self.metadata.classes) > 1:
            raise UsageError(
                f"{path} tells several classes apart and takes no threshold, largest_component "
                "or fill_holes."
            )
        self._threads = threads or min(_MOST_THREADS, count_cores())
        self._max_bytes = max_bytes
        self.tta = tta
        self.largest_component, self.fill_holes = largest_component, fill_holes
        self.threshold = self.metadata.threshold if threshold is None else float(threshold)

    def __reduce__(self) -> tuple[Callable[[], Segmenter], tuple[()]]:
        """Pickle where the weights lie and the settings: other processes open the file anew."""
        again = partial(
            type(self),
            self._path,
            threads=self._threads,
            providers=self._providers,
            threshold=self.threshold if len(self.metadata.classes) == 1 else None,
            tta=self.tta,
            largest_component=self.largest_component,
            fill_holes=self.fill_holes,
            max_bytes=self._max_bytes,
        )
        return again, ()

    @overload
    def __call__(self, photo: list[Source] | tuple[Source, ...]) -> list[Result]: ...
    @overload
    def __call__(self, photo: Source) -> Result: ...
    def __call__(self, photo: Source | list[Source] | tuple[Source, ...]) -> Result | list[Result]:
        """Segment one photo, or each of a list.

        Args:
            photo: A path, the bytes of an image file, an open binary file, a Pillow image or an
                array (see `egeunet.inference.image_io.read_image`); or a list of these.

        Returns:
            One result, or a list of them in the same order.

        Raises:
            EgeunetError: A photo cannot be read.
        """
        if isinstance(photo, (list, tuple)):
            return list(self.stream(photo))
        return self._segment(self._take(photo), source_name(photo), nullcontext())

    def stream(
        self, photos: Source | Iterable[Source], *, recursive: bool = False
    ) -> Iterator[Result]:
        """Segment photos, several at a time, and give the results in order.

        Args:
            photos: A folder, a glob pattern, one photo, or any iterable of photos, such as an array
                (N, H, W, C); it is read only a few photos ahead, so that memory stays bounded
                however many there are. Arrays, images and open files are read when they are
                given: the next may be the same object, changed.
            recursive: Also look into the folder's subfolders.

        Yields:
            One result per photo, in order; where photos come slowly, when the next one is there.

        Raises:
            EgeunetError: A photo cannot be read. See `outcomes` to go on after such a photo. What
                the iterable itself raises comes after the results of the photos before.
        """
        with closing(self.outcomes(photos, recursive=recursive)) as outcomes:
            for _, outcome in outcomes:
                if isinstance(outcome, EgeunetError):
                    raise outcome
                yield outcome

    def outcomes(
        self, photos: Source | Iterable[Source], *, recursive: bool = False
    ) -> Generator[tuple[Source, Result | EgeunetError], None, None]:
        """Segment photos as `stream` does, but hand over the error of a broken photo and go on.

        Args:
            photos: As for `stream`.
            recursive: As for `stream`.

        Yields:
            Each photo as it was given, with its result or with the error that says what is wrong.
        """
        if isinstance(photos, (str, os.PathLike)) and not is_url(photos):
            photos = find_photos([os.fspath(photos)], recursive)
        network = BoundedSemaphore(self._threads)
        # What is taken now, its owner may change as soon as the next one is asked for.
        jobs = (
            (photo, partial(self._segment, self._take(photo), source_name(photo), network))
            for photo in list_sources(photos)
        )
        limit = 2 * self._threads + 1  # a slow photo shall not stop the others
        yield from work_ahead(jobs, self._threads + 1, limit)

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network alone; with `tta` over the mirror images too.

        Args:
            images: float32 (B, 3, h, w) of the size in `metadata`, as
                `egeunet.inference.preprocess.to_input` makes them.

        Returns:
            float32 (B, K, h, w).
        """
        return average_mirrors(self._run, images) if self.tta else self._run(images)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._session.run(["logits"], {"image": images})[0]

    def _take(self, photo: Source) -> Snapshot | EgeunetError:
        try:
            return take_snapshot(photo, max_bytes=self._max_bytes)
        except EgeunetError as error:
            return error

    def _segment(
        self, taken: Snapshot | EgeunetError, name: str | None, network: AbstractContextManager[Any]
    ) -> Result:
        if isinstance(taken, EgeunetError):
            raise taken
        size = self.metadata.size
        least = _ENOUGH * max(size)
        whole, photo = read_reduced(taken, least, name, max_bytes=self._max_bytes)
        image = to_input(whole, size)
        del whole  # a large one shall not wait for the network
        with network:
            logits = self.logits(image[None])[0]
        if not np.isfinite(logits.sum()):  # which one value spoils
            raise EgeunetError(
                "The network gave values that are not finite: its weights are damaged; export them "
                "again."
            )
        scores = sigmoid(logits[0]) if len(logits) == 1 else _softmax(logits)
        model = self.metadata.quality
        quality = model.expect_dice(scores, self.tta) if model else None
        if self.largest_component or self.fill_holes:
            scores = tidy(scores, self.threshold, self.largest_component, self.fill_holes)
        return Result(
            image=photo,
            scores=scores,
            threshold=self.threshold,
            classes=self.metadata.classes,
            source=name,
            quality=quality,
        )


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
    """Return probabilities, without an overflow at any logit."""
    return np.float32(0.5) + np.float32(0.5) * np.tanh(logits * np.float32(0.5))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)
