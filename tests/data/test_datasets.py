import os
from pathlib import Path

import pytest

from egeunet.data.datasets import (
    Dataset,
    get_info,
    list_datasets,
    open_data,
    open_dataset,
    open_folder,
)
from egeunet.errors import EgeunetError, UsageError

OFFICIAL = {
    "isic2018": [
        (
            "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg",
            "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png",
        )
    ],
    "isic2017": [
        (
            f"ISIC-2017_{part}Data/ISIC_000000{i}.jpg",
            f"ISIC-2017_{part}Part1_GroundTruth/ISIC_000000{i}_segmentation.png",
        )
        for i, part in enumerate(("Training_", "Validation_", "Test_v2_"))
    ],
    "ph2": [
        (
            "PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp",
            "PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp",
        )
    ],
    "kvasir_seg": [("Kvasir-SEG/images/cju0.jpg", "Kvasir-SEG/masks/cju0.jpg")],
    "cvc_clinicdb": [("Original/1.tif", "Ground Truth/1.tif")],
    "ham10000": [
        (
            f"HAM10000_images_part_{i}/ISIC_000000{i}.jpg",
            f"HAM10000_segmentations_lesion_tschandl/ISIC_000000{i}_segmentation.png",
        )
        for i in (1, 2)
    ],
}


def ids(dataset: Dataset) -> list[str]:
    return [sample.id for sample in dataset.samples]


@pytest.fixture
def official(tmp_path, write_pair):
    """Write a dataset in its official layout."""

    def write(name: str) -> Path:
        root = tmp_path / get_info(name).folder
        for image, mask in OFFICIAL[name]:
            write_pair(root / image, root / mask)
        if name == "ham10000":
            (root / "HAM10000_metadata.csv").write_text(
                "lesion_id,image_id,dx\nHAM_7,ISIC_0000001,nv\nHAM_7,ISIC_0000002,nv\n"
            )
        return root

    return write


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_layouts_open_by_name_by_folder_and_below_the_variable(
    name, official, monkeypatch
):
    root = official(name)
    dataset = open_dataset(name, root)
    assert dataset == open_folder(root)
    assert dataset.name == name
    assert len(dataset.samples) == len(OFFICIAL[name])
    assert all(sample.mask is not None for sample in dataset.samples)
    monkeypatch.setenv("EGEUNET_DATA", str(root.parent))
    assert open_data(name) == dataset


def test_every_registered_dataset_is_tested_here():
    assert {info.name for info in list_datasets()} == set(OFFICIAL)
    assert all(info.archives or info.manual for info in list_datasets())


def test_isic2017_keeps_its_official_parts(official):
    dataset = open_dataset("isic2017", official("isic2017"))
    assert [sample.split for sample in dataset.samples] == ["train", "val", "test"]


def test_superpixels_beside_the_photos_are_no_photos(official, write_pair):
    root = official("isic2017")
    write_pair(root / "ISIC-2017_Training_Data/ISIC_0000000_superpixels.png", None)
    assert len(open_dataset("isic2017", root).samples) == 3


def test_isic2017_is_found_inside_isic2018(official, monkeypatch, write_pair):
    root = official("isic2018")
    write_pair(
        root / "ISIC2018_Task1-2_Training_Input/ISIC_0000001.jpg",
        root / "ISIC2018_Task1_Training_GroundTruth/ISIC_0000001_segmentation.png",
    )
    (root / "isic2017_ids.csv").write_text("isic_id,isic2017_split\nISIC_0000001,val\n")
    monkeypatch.setenv("EGEUNET_DATA", str(root.parent))
    dataset = open_dataset("isic2017")
    assert ids(dataset) == ["ISIC_0000001"]
    assert dataset.samples[0].split == "val"
    assert not dataset.orphans
    assert open_folder(root).name == "isic2018"


def test_ham10000_groups_photos_of_one_lesion_and_wants_to_know_them(official):
    root = official("ham10000")
    assert {sample.group for sample in open_dataset("ham10000", root).samples} == {"HAM_7"}
    (root / "HAM10000_metadata.csv").unlink()
    with pytest.raises(EgeunetError, match=r"HAM10000_metadata\.csv"):
        open_dataset("ham10000", root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no columns image_id and lesion_id"),
        (b"a,b\n1,2\n", "has no columns image_id and lesion_id"),
        (b"image_id,lesion_id\n\xff\xfe,1\n", "as a CSV file"),
        (b"image_id,lesion_id\n" + b"x" * 200_000, "as a CSV file"),
    ],
)
def test_a_damaged_table_of_lesions_is_one_sentence(content, message, official):
    root = official("ham10000")
    (root / "HAM10000_metadata.csv").write_bytes(content)
    with pytest.raises(EgeunetError, match=rf"HAM10000_metadata\.csv.*{message}"):
        open_dataset("ham10000", root)


@pytest.mark.parametrize("suffix", ["", "_segmentation", "_mask", "_lesion"])
def test_masks_match_with_and_without_suffix(suffix, tmp_path, write_pair):
    for name in ("b", "a 1"):
        write_pair(tmp_path / f"images/{name}.jpg", tmp_path / f"masks/{name}{suffix}.png")
    dataset = open_folder(tmp_path)
    assert ids(dataset) == ["a 1", "b"]
    for sample in dataset.samples:
        assert sample.mask == tmp_path / f"masks/{sample.id}{suffix}.png"


def test_part_folders_give_parts_and_unique_ids(tmp_path, write_pair):
    for part in ("train", "validation", "test"):
        write_pair(tmp_path / part / "images/0.png", tmp_path / part / "masks/0.png")
    dataset = open_folder(tmp_path)
    assert {sample.id: sample.split for sample in dataset.samples} == {
        "train_0": "train",
        "val_0": "val",
        "test_0": "test",
    }


def test_images_without_mask_and_masks_without_image_are_told_apart(folder, write_pair):
    write_pair(folder / "images/new.png", folder / "masks/lonely.png")
    dataset = open_folder(folder)
    assert [sample.id for sample in dataset.samples if sample.mask is None] == ["new"]
    assert dataset.orphans == (folder / "masks/lonely.png",)


def test_hidden_and_foreign_files_are_passed_over(folder, write_pair):
    write_pair(folder / "images/._a00.png", None)
    (folder / "images/Thumbs.db").write_text("")
    os.mkfifo(folder / "images/pipe.png")  # reading it would wait for ever
    assert len(open_folder(folder).samples) == 20


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["masks/a00_mask.png"], "image a00 has two masks"),
        (["images/a00_mask.png", "masks/a00_mask.png"], "matches two images, a00 and a00_mask"),
        (["images/a00.jpg"], "Two images .* a00"),
    ],
)
def test_ambiguous_names_are_an_error(extra, message, folder, write_pair):
    for name in extra:
        write_pair(folder / name, None)
    with pytest.raises(EgeunetError, match=message):
        open_folder(folder)


def test_errors_name_the_remedy(tmp_path, monkeypatch):
    monkeypatch.delenv("EGEUNET_DATA", raising=False)
    with pytest.raises(EgeunetError, match=r"EGEUNET_DATA.*egeunet data download isic2018"):
        open_dataset("isic2018")
    with pytest.raises(UsageError, match="did you mean isic2018"):
        open_dataset("isic-2018")
    with pytest.raises(UsageError, match="choose"):
        open_dataset("xyz")
    with pytest.raises(EgeunetError, match="ISIC2018_Task1-2_Training_Input"):
        open_dataset("isic2018", tmp_path)
    with pytest.raises(EgeunetError, match="expected images/ and masks/"):
        open_folder(tmp_path)
    with pytest.raises(EgeunetError, match="no folder"):
        open_data(tmp_path / "nowhere")
    monkeypatch.setenv("EGEUNET_DATA", str(tmp_path))
    with pytest.raises(EgeunetError, match="holds no folder isic2018"):
        open_dataset("isic2018")


@pytest.mark.data
def test_the_real_folders(real_data):
    assert len(open_folder(real_data / "isic2018").samples) == 2594
    parts = [sample.split for sample in open_dataset("isic2017", real_data / "isic2018").samples]
    assert {part: parts.count(part) for part in set(parts)} == {
        "train": 1800,
        "val": 121,
        "test": 529,
    }
    kvasir = open_folder(real_data / "kvasir_seg")
    assert (kvasir.name, len(kvasir.samples)) == ("kvasir_seg", 1000)
