"""The registry of datasets: to add one, add an entry here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where images and their masks are inside a dataset's folder.

    Attributes:
        images: Glob patterns of the image files.
        masks: Glob pattern of the mask files.
        split: Their official split: "train", "val", "test", or None.
        prefix: Prefix of the ids.
        listing: A CSV file of ids (column `isic_id`) and their official splits (`isic2017_split`).
    """

    images: tuple[str, ...]
    masks: str
    split: str | None = None
    prefix: str = ""
    listing: str | None = None


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """A dataset known by name.

    Attributes:
        name: Its name in this package.
        title: Its official name.
        homepage: URL of its page.
        license: Its license or terms.
        pairs: Number of images with a mask in the official release.
        folder: Its folder inside EGEUNET_DATA.
        layouts: The official arrangements of its files, tried in this order.
        archives: URLs that `egeunet data download` downloads; none if that needs a form or a login.
        manual: How to get it by hand, and which files to put where.
        groups: Possible names of the table of which images show the same lesion (`lesion_id`).
        pooled: Official splits that the protocols pool and split anew; the others are left out.
        also_in: Other folders inside EGEUNET_DATA that hold it.
        target: What its masks show, the class name of one-class weights.
    """

    name: str
    title: str
    homepage: str
    license: str
    pairs: int
    folder: str
    layouts: tuple[tuple[Place, ...], ...]
    archives: tuple[str, ...] = ()
    manual: str = ""
    groups: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()
    also_in: tuple[str, ...] = ()
    target: str = "lesion"


_ISIC = "https://isic-challenge-data.s3.amazonaws.com"
_ISIC2018_IMAGES = ("ISIC2018_Task1-2_Training_Input/*",)
_ISIC2018_MASKS = "ISIC2018_Task1_Training_GroundTruth/*"
_ISIC2017_PARTS = {"Training": "train", "Validation": "val", "Test_v2": "test"}

_ENTRIES = (
    DatasetInfo(
        name="isic2018",
        title="ISIC 2018 Task 1, training set",
        homepage="https://challenge.isic-archive.com/data/#2018",
        license="CC BY-NC 4.0",
        pairs=2594,
        folder="isic2018",
        layouts=((Place(_ISIC2018_IMAGES, _ISIC2018_MASKS),),),
        archives=(
            f"{_ISIC}/2018/ISIC2018_Task1-2_Training_Input.zip",
            f"{_ISIC}/2018/ISIC2018_Task1_Training_GroundTruth.zip",
        ),
    ),
    DatasetInfo(
        name="isic2017",
        title="ISIC 2017 Part 1",
        homepage="https://challenge.isic-archive.com/data/#2017",
        license="CC0 1.0",
        pairs=2750,
        folder="isic2017",
        layouts=(
            tuple(
                Place((f"ISIC-2017_{part}_Data/*",), f"ISIC-2017_{part}_Part1_GroundTruth/*", split)
                for part, split in _ISIC2017_PARTS.items()
            ),
            (Place(_ISIC2018_IMAGES, _ISIC2018_MASKS, listing="isic2017_ids.csv"),),
        ),
        archives=tuple(
            f"{_ISIC}/2017/ISIC-2017_{part}_{content}.zip"
            for part in _ISIC2017_PARTS
            for content in ("Data", "Part1_GroundTruth")
        ),
        pooled=("train", "val"),
        also_in=("isic2018",),
    ),
    DatasetInfo(
        name="ph2",
        title="PH2",
        homepage="https://www.fc.up.pt/addi/ph2%20database.html",
        license="research and education; see the owner's terms",
        pairs=200,
        folder="ph2",
        layouts=tuple(
            (
                Place(
                    (f"{above}PH2 Dataset images/*/*_Dermoscopic_Image/*",),
                    f"{above}PH2 Dataset images/*/*_lesion/*",
                ),
            )
            for above in ("", "PH2Dataset/")
        ),
        manual="Fill in the form on the page and unpack the archive, so that there is "
        "`PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp`",
    ),
    DatasetInfo(
        name="kvasir_seg",
        target="polyp",
        title="Kvasir-SEG",
        homepage="https://datasets.simula.no/kvasir-seg/",
        license="research and education; see the owner's terms",
        pairs=1000,
        folder="kvasir_seg",
        layouts=((Place(("Kvasir-SEG/images/*",), "Kvasir-SEG/masks/*"),),),
        archives=("https://datasets.simula.no/downloads/kvasir-seg.zip",),
    ),
    DatasetInfo(
        name="cvc_clinicdb",
        target="polyp",
        title="CVC-ClinicDB",
        homepage="https://polyp.grand-challenge.org/CVCClinicDB/",
        license="research; see the owner's terms",
        pairs=612,
        folder="cvc_clinicdb",
        layouts=tuple(
            (Place((f"{above}Original/*",), f"{above}Ground Truth/*"),)
            for above in ("", "CVC-ClinicDB/", "PNG/", "TIF/")
        ),
        manual="Follow the page to the archive and unpack it, so that there are "
        "`Original/1.tif` and `Ground Truth/1.tif`",
    ),
    DatasetInfo(
        name="ham10000",
        title="HAM10000 with lesion segmentations",
        homepage="https://doi.org/10.7910/DVN/DBW86T",
        license="CC BY-NC 4.0",
        pairs=10015,
        folder="ham10000",
        layouts=(
            (
                Place(
                    ("HAM10000_images_part_1/*", "HAM10000_images_part_2/*", "images/*"),
                    "HAM10000_segmentations_lesion_tschandl/*",
                ),
            ),
        ),
        manual="Accept the terms on the page and unpack both image archives and the segmentations, "
        "so that there are `HAM10000_images_part_1/ISIC_0024306.jpg`, "
        "`HAM10000_segmentations_lesion_tschandl/ISIC_0024306_segmentation.png` and "
        "`HAM10000_metadata.csv`",
        groups=("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab"),
    ),
)

REGISTRY = {entry.name: entry for entry in _ENTRIES}
