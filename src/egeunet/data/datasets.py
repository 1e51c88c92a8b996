"""Open datasets by name in their official layouts, and any folder of images and masks."""

from __future__ import annotations

import csv
import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from egeunet.data.registry import REGISTRY, DatasetInfo, Place
from egeunet.errors import EgeunetError, UsageError
from egeunet.inference.paths import SUFFIXES

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
MASK_SUFFIXES = ("_segmentation", "_mask", "_lesion")
_MAX_LINE = 10_000  # characters of the first line of a table
_PLAIN = Place(images=("images/*",), masks="masks/*")


@dataclass(frozen=True, slots=True)
class Sample:
    """An image with its mask.

    Attributes:
        id: Unique in its dataset.
        image: The image file.
        mask: The mask file; None if there is none.
        split: Its official split: "train", "val", "test", or None.
        group: What a split must keep together, such as the images of one lesion.
    """

    id: str
    image: Path
    mask: Path | None
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Dataset:
    """The samples in a folder.

    Attributes:
        name: A name of `list_datasets`, or the folder's name.
        root: The folder.
        samples: Samples sorted by id.
        orphans: Mask files that match no image.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    orphans: tuple[Path, ...] = ()


def list_datasets() -> list[DatasetInfo]:
    """Return the datasets known by name, sorted by name."""
    return [REGISTRY[name] for name in sorted(REGISTRY)]


def get_info(name: str) -> DatasetInfo:
    """Return the registry entry of a dataset.

    Raises:
        UsageError: If no dataset has that name.
    """
    if name not in REGISTRY:
        close = difflib.get_close_matches(name.lower().replace("-", "_"), REGISTRY, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose {', '.join(sorted(REGISTRY))}."
        raise UsageError(f"There is no dataset {name!r}; {hint}")
    return REGISTRY[name]


def open_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Open a dataset by its name, in its official layout or as `images/` + `masks/`.

    Args:
        name: One of `list_datasets`.
        root: Its folder; None: its folder inside the one that EGEUNET_DATA names.

    Raises:
        EgeunetError: If the folder does not exist or does not hold the dataset.
        UsageError: If no dataset has that name.
    """
    info = get_info(name)
    folder = Path(root) if root is not None else _find_root(info)
    for layout in (*info.layouts, _plain_layout(folder)):
        if found := _read(info.name, folder, layout, info):
            return found
    expected = " or ".join(sorted({place.images[0] for lay in info.layouts for place in lay}))
    raise EgeunetError(
        f"{folder} does not hold {info.title}: expected {expected} and their masks, or images/ and "
        f"masks/. See `egeunet data download {name}`."
    )


def open_folder(root: str | Path) -> Dataset:
    """Open a folder: one of the official layouts, or `images/` + `masks/` with matching names.

    The two may also be inside each of `train/`, `val/` (or `validation/`) and `test/`. Ids then
    begin with the name of the split, because file names may repeat across splits.

    Raises:
        EgeunetError: If the folder does not exist, holds no dataset, or names match ambiguously.
    """
    root = Path(root)
    if not root.is_dir():
        raise EgeunetError(f"There is no folder {root}. Give one that holds images/ and masks/.")
    for info in list_datasets():
        for layout in info.layouts:
            # A list of ids picks one dataset out of another's folder; that takes its name.
            if all(place.listing is None for place in layout) and (
                found := _read(info.name, root, layout, info)
            ):
                return found
    if found := _read(root.resolve().name, root, _plain_layout(root)):
        return found
    raise EgeunetError(
        f"{root} holds no dataset: expected images/ and masks/ with matching file names (also "
        "inside train/, val/ and test/), or a layout of `egeunet data list`."
    )


def open_data(name_or_folder: str | Path) -> Dataset:
    """Open a folder if it exists, else the dataset of that name."""
    if Path(name_or_folder).is_dir():
        return open_folder(name_or_folder)
    name = str(name_or_folder)
    return open_dataset(name) if Path(name).name == name else open_folder(name)


def data_root() -> Path | None:
    """Return the folder that the environment variable EGEUNET_DATA names, or None."""
    return Path(value) if (value := os.environ.get("EGEUNET_DATA")) else None


def _find_root(info: DatasetInfo) -> Path:
    above = data_root()
    if above is None:
        raise EgeunetError(
            f"Cannot find {info.name}: give its folder, or set EGEUNET_DATA to the folder that "
            f"holds {info.folder}/. `egeunet data download {info.name}` says how to get it."
        )
    for name in (info.folder, *info.also_in):
        if (above / name).is_dir():
            return above / name
    raise EgeunetError(
        f"EGEUNET_DATA={above} holds no folder {info.folder}/. "
        f"`egeunet data download {info.name}` says how to get it."
    )


def _plain_layout(root: Path) -> tuple[Place, ...]:
    if (root / "images").is_dir():
        return (_PLAIN,)
    return tuple(
        Place((f"{folder}/images/*",), f"{folder}/masks/*", split, prefix=f"{split}_")
        for folder, split in SPLITS.items()
        if (root / folder / "images").is_dir()
    )


def _read(
    name: str, root: Path, layout: tuple[Place, ...], info: DatasetInfo | None = None
) -> Dataset | None:
    """Read a layout; None if nothing of it is there."""
    samples: list[Sample] = []
    orphans: list[Path] = []
    for place in layout:
        images = _files(root, *place.images)
        masks = _files(root, place.masks)
        if images and masks:
            pairs, lonely = _match(images, masks)
            samples += _describe(root, place, pairs)
            # A list that picks some ids says nothing about the masks of the others.
            orphans += lonely if place.listing is None else []
    if not samples:
        return None
    groups = _table(root, info.groups, "image_id", "lesion_id") if info and info.groups else {}
    samples = [replace(sample, group=groups.get(sample.id)) for sample in samples]
    repeated = [key for key, count in Counter(sample.id for sample in samples).items() if count > 1]
    if repeated:
        raise EgeunetError(f"Two images in {root} are named {repeated[0]}. Names must be unique.")
    return Dataset(name, root, tuple(sorted(samples, key=lambda s: s.id)), tuple(orphans))


def _files(root: Path, *patterns: str) -> list[Path]:
    found = (path for pattern in patterns for path in root.glob(pattern))
    return sorted(
        path
        for path in found
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and (path.is_file() or path.is_dir() or not path.exists())  # no pipes and devices
        and not path.stem.endswith("_superpixels")  # ISIC ships these beside its images
    )


def _match(
    images: Iterable[Path], masks: Iterable[Path]
) -> tuple[list[tuple[Path, Path | None]], list[Path]]:
    """Pair images and masks by name, the mask's with or without its suffix."""
    by_name: dict[str, list[Path]] = {path.stem: [] for path in images}
    orphans = []
    for mask in masks:
        names = {mask.stem, *(mask.stem.removesuffix(suffix) for suffix in MASK_SUFFIXES)}
        fitting = sorted(names & by_name.keys())
        if not fitting:
            orphans.append(mask)
        elif len(fitting) > 1:
            raise EgeunetError(
                f"The mask {mask} matches two images, {' and '.join(fitting)}. Rename one of them."
            )
        else:
            by_name[fitting[0]].append(mask)
    for name, fits in by_name.items():
        if len(fits) > 1:
            raise EgeunetError(
                f"The image {name} has two masks, {fits[0].name} and {fits[1].name}. Remove one."
            )
    pairs = ((image, by_name[image.stem]) for image in images)
    return [(image, fits[0] if fits else None) for image, fits in pairs], orphans


def _describe(root: Path, place: Place, pairs: Iterable[tuple[Path, Path | None]]) -> list[Sample]:
    if place.listing is None:
        return [Sample(place.prefix + i.stem, i, mask, place.split) for i, mask in pairs]
    if not (root / place.listing).is_file():
        return []
    splits = _table(root, (place.listing,), "isic_id", "isic2017_split")
    return [Sample(i.stem, i, mask, splits[i.stem]) for i, mask in pairs if i.stem in splits]


def _table(root: Path, names: tuple[str, ...], key: str, value: str) -> Mapping[str, str]:
    """Read two columns of the first of these files that exists, comma- or tab-separated."""
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is None:
        raise EgeunetError(
            f"{root} lacks {names[0]}, which says which images show the same lesion. Put it there."
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline(_MAX_LINE)
            file.seek(0)
            rows = csv.DictReader(file, delimiter="\t" if "\t" in first else ",")
            if {key, value} <= set(rows.fieldnames or ()):
                return {row[key]: row[value] for row in rows}
    except (OSError, ValueError, csv.Error, MemoryError) as error:
        raise EgeunetError(f"Cannot read {path} as a CSV file: {error}.") from error
    raise EgeunetError(f"{path} has no columns {key} and {value}.")
