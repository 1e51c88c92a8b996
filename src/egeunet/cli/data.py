"""`egeunet data`: list, check, split, download and synthesize datasets."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.console import print_json, print_table
from egeunet.cli.options import Json, Overwrite, check_absent, output

_log = logging.getLogger(__name__)
app = typer.Typer(
    name="data",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List, check, split, download and synthesize datasets.",
)


SHOWN = 3  # details of each kind of problem in the table


class ProtocolName(str, Enum):
    """How a dataset is split."""

    paper = "paper"
    holdout = "holdout"


Source = Annotated[
    str, typer.Argument(metavar="DATASET", help="A folder, or a dataset of `egeunet data list`.")
]
ProtocolOption = Annotated[
    ProtocolName, typer.Option(help="paper: 70/30, selected on test; holdout: 70/10/20.")
]


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the datasets known by name.

    A folder of your own with images/ and masks/ can be used in place of a name.

    For example:

        egeunet data list
    """
    from egeunet.data.datasets import list_datasets

    datasets = list_datasets()
    if as_json:
        print_json([asdict(info) for info in datasets])
        return
    rows = [
        (info.name, info.title, info.pairs, info.license, "yes" if info.archives else "by hand")
        for info in datasets
    ]
    print_table("Datasets", ("name", "title", "pairs", "license", "download"), rows)


@app.command()
def check(
    dataset: Source,
    protocol: ProtocolOption = ProtocolName.holdout,
    num_classes: Annotated[
        int, typer.Option(min=1, max=255, help="1: binary masks; more: class indices.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Check every file of a dataset before training on it.

    Reports files that cannot be decoded, images without a mask and masks without an image, sizes
    that differ, masks that are empty, full or not binary, and duplicate images, with those that
    leak from one split into another. The exit code is 1 if there are errors.

    For example:

        egeunet data check images/
    """
    from egeunet.data.check import check_dataset
    from egeunet.data.datasets import open_data

    result = check_dataset(open_data(dataset), protocol.value, num_classes)
    if as_json:
        print_json(result.to_dict())
    else:
        if result.findings:
            rows = []
            for (level, kind), same in result.by_kind().items():
                details = [finding.detail for finding in same[:SHOWN]]
                more = [f"… and {len(same) - SHOWN} more (--json)"] if len(same) > SHOWN else []
                rows.append(("\n  ".join([kind, *details, *more]), level, len(same)))
            print_table(f"{result.name} in {result.root}", ("problem", "level", "count"), rows)
        verdict = "no errors" if result.ok else "errors found"
        sys.stdout.write(
            f"{result.name}: {result.readable} of {result.images} pairs can be read, mean "
            f"foreground {result.foreground:.1%}, protocol {protocol.value}: {verdict}\n"
        )
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def split(
    dataset: Source,
    protocol: ProtocolOption = ProtocolName.holdout,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    out: Annotated[Path | None, output("File to write instead of stdout.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compute a split list, `<id> <split>` per line, the same on every machine.

    The lists in the package were made with seed 0.

    For example:

        egeunet data split isic2018 --protocol paper -o isic2018_paper.txt
    """
    from egeunet.data.datasets import open_data
    from egeunet.data.splits import cut, format_list
    from egeunet.files import atomic_write

    if out and not overwrite:
        check_absent([out])
    opened = open_data(dataset)
    text = format_list(opened, protocol.value, seed, cut(opened, protocol.value, seed))
    if out is None:
        sys.stdout.write(text)
        return
    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    _log.info("%s, written to %s", text.splitlines()[0].removeprefix("# "), out)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="A dataset of `egeunet data list`.")],
    out: Annotated[
        Path | None, output("Folder for all datasets; $EGEUNET_DATA by default.")
    ] = None,
    mirror: Annotated[str | None, typer.Option(help="Base URL that has the same archives.")] = None,
) -> None:
    """Download the official archives of a dataset, check and unpack them.

    Resumes an interrupted download. For datasets behind a form or a login it says where to get
    them and which files to put where.

    For example:

        egeunet data download isic2018 -o datasets
    """
    from egeunet.data.download import download as fetch

    sys.stdout.write(f"{fetch(name, out, mirror).root}\n")


@app.command()
def synthesize(
    out: Annotated[Path, output("A new folder.")],
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 400,
    height: Annotated[int, typer.Option(min=16, help="Height in pixels.")] = 256,
    width: Annotated[int, typer.Option(min=16, help="Width in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images.")] = 0,
    num_classes: Annotated[
        int, typer.Option(help="1: the lesion; 3: background, lesion, dark structure.")
    ] = 1,
) -> None:
    """Draw a synthetic dermoscopy dataset with exact masks: images/ and masks/.

    It has all skin tones, irregular lesions, hair, rulers and uneven light. Use it to try things
    out: scores on it say nothing about real images.

    For example:

        egeunet data synthesize -o synthetic --count 400
    """
    from egeunet.data.synthetic import write_dataset

    size = (height, width)
    folder = write_dataset(out, count, size, seed, num_classes)
    sys.stdout.write(f"{folder}\n")
