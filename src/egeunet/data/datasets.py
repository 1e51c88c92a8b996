"""Datasets by name, each found in its official layout, and any folder of images and masks."""

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

PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
MASK_SUFFIXES = ("_segmentation", "_mask", "_lesion")
_PLAIN = Place(images=("images/*",), masks="masks/*")


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo with its mask.

    Attributes:
        id: Unique in its dataset.
        image: The photo's file.
        mask: The mask's file; None if there is none.
        part: The part its owner put it into: "train", "val", "test", or None.
        group: What must not be torn apart by a split, such as photos of one lesion.
    """

    id: str
    image: Path
    mask: Path | None
    part: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Dataset:
    """What a folder holds.

    Attributes:
        name: A name of `list_datasets`, or the folder's own.
        root: The folder.
        samples: Sorted by id.
        orphans: Mask files that belong to no image.
    """

    name: str
    root: Path
    samples: tuple[Sample, ...]
    orphans: tuple[Path, ...] = ()


def list_datasets() -> list[DatasetInfo]:
    """Return what is known by name, in the order of the names."""
    return [REGISTRY[name] for name in sorted(REGISTRY)]


def get_info(name: str) -> DatasetInfo:
    """Return what is known of the dataset `name`.

    Raises:
        UsageError: If no dataset has that name.
    """
    if name not in REGISTRY:
        close = difflib.get_close_matches(name.lower().replace("-", "_"), REGISTRY, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(REGISTRY))}."
        raise UsageError(f"There is no dataset {name!r}; {hint}")
    return REGISTRY[name]


def open_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Open a dataset by its name, in its official layout or as `images/` + `masks/`.

    Args:
        name: One of `list_datasets`.
        root: The dataset's folder; None looks below the environment variable EGEUNET_DATA.

    Raises:
        EgeunetError: If the folder is not there or does not hold the dataset.
        UsageError: If no dataset has that name.
    """
    info = get_info(name)
    folder = Path(root) if root is not None else _find_root(info)
    for layout in (*info.layouts, _plain_layout(folder)):
        if found := _read(info.name, folder, layout, info):
            return found
    expected = " or ".join(sorted({place.images[0] for lay in info.layouts for place in lay}))
    raise EgeunetError(
        f"{folder} does not hold {info.title}: expected {expected} with the masks beside it, "
        f"or images/ and masks/; see `egeunet data download {name}`."
    )


def open_folder(root: str | Path) -> Dataset:
    """Open a folder: one of the official layouts, or `images/` + `masks/` with matching names.

    The two may also lie in each of `train/`, `val/` (or `validation/`) and `test/`; ids then begin
    with the part, since its owner may have numbered each part anew.

    Raises:
        EgeunetError: If the folder is not there, holds nothing known, or names match ambiguously.
    """
    root = Path(root)
    if not root.is_dir():
        raise EgeunetError(f"There is no folder {root}; give one that holds images/ and masks/.")
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
    """Open a folder if there is one of that name, else the dataset of that name."""
    if Path(name_or_folder).is_dir():
        return open_folder(name_or_folder)
    name = str(name_or_folder)
    return open_dataset(name) if Path(name).name == name else open_folder(name)


def data_root() -> Path | None:
    """Return the folder that the environment variable EGEUNET_DATA names, if it is set."""
    return Path(value) if (value := os.environ.get("EGEUNET_DATA")) else None


def _find_root(info: DatasetInfo) -> Path:
    above = data_root()
    if above is None:
        raise EgeunetError(
            f"Where is {info.name}? Give its folder, or set EGEUNET_DATA to the folder that holds "
            f"{info.folder}/ (`egeunet data download {info.name}` says how to get it)."
        )
    for name in (info.folder, *info.also_in):
        if (above / name).is_dir():
            return above / name
    raise EgeunetError(
        f"EGEUNET_DATA={above} holds no folder {info.folder}/: "
        f"`egeunet data download {info.name}` says how to get it."
    )


def _plain_layout(root: Path) -> tuple[Place, ...]:
    if (root / "images").is_dir():
        return (_PLAIN,)
    return tuple(
        Place((f"{folder}/images/*",), f"{folder}/masks/*", part, prefix=f"{part}_")
        for folder, part in PARTS.items()
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
        raise EgeunetError(
            f"Two images in {root} have the name {repeated[0]}; names must be unique."
        )
    return Dataset(name, root, tuple(sorted(samples, key=lambda s: s.id)), tuple(orphans))


def _files(root: Path, *patterns: str) -> list[Path]:
    found = (path for pattern in patterns for path in root.glob(pattern))
    return sorted(
        path
        for path in found
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not path.stem.endswith("_superpixels")  # ISIC ships these beside its photos
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
                f"The mask {mask} fits two images, {' and '.join(fitting)}; rename one of them."
            )
        else:
            by_name[fitting[0]].append(mask)
    for name, fits in by_name.items():
        if len(fits) > 1:
            raise EgeunetError(
                f"The image {name} has two masks, {fits[0].name} and {fits[1].name}; remove one."
            )
    pairs = ((image, by_name[image.stem]) for image in images)
    return [(image, fits[0] if fits else None) for image, fits in pairs], orphans


def _describe(root: Path, place: Place, pairs: Iterable[tuple[Path, Path | None]]) -> list[Sample]:
    if place.listing is None:
        return [Sample(place.prefix + i.stem, i, mask, place.part) for i, mask in pairs]
    if not (root / place.listing).is_file():
        return []
    parts = _table(root, (place.listing,), "isic_id", "isic2017_split")
    return [Sample(i.stem, i, mask, parts[i.stem]) for i, mask in pairs if i.stem in parts]


def _table(root: Path, names: tuple[str, ...], key: str, value: str) -> Mapping[str, str]:
    """Read two columns of the first of these files that is there, comma- or tab-separated."""
    for name in names:
        if (path := root / name).is_file():
            with path.open(newline="", encoding="utf-8-sig") as file:
                first = file.readline()
                file.seek(0)
                reader = csv.DictReader(file, delimiter="\t" if "\t" in first else ",")
                if not {key, value} <= set(reader.fieldnames or ()):
                    raise EgeunetError(f"{path} has no columns {key} and {value}.")
                return {row[key]: row[value] for row in reader}
    raise EgeunetError(
        f"{root} holds no {names[0]}, which says what belongs together; put it there."
    )
