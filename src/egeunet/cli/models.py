"""`egeunet models`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from egeunet.cli.console import print_json, print_table
from egeunet.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from egeunet.models.registry import System

COLUMNS = (
    *("system", "params", "MACs (G)", "memory (MB)", "paper (M)", "paper (G)", "licence"),
    "published in",
)


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """List the systems with what each costs for one image of 256×256.

    MACs are the multiply-accumulates of convolutions, linear layers and matrix products.

    Memory is the most that the results of a network's operators take at one time, in float32, each
    kept until its last use; weights and image come on top (1 MB is 10⁶ bytes).

    The paper's columns are what Tables 1 and 2 of EGE-UNet print as parameters and GFLOPs, which
    are MACs as other tools count them. The licence is that of the authors' public code; the
    networks here are written anew.

    For example:

        egeunet models --markdown
    """
    from egeunet.models.registry import get_system, list_models

    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other: choose one.")
    systems = [get_system(name) for name in list_models()]
    rows = [_row(system) for system in systems]
    if as_json:
        print_json(rows)
        return
    cells = [_cells(system, row, markdown) for system, row in zip(systems, rows, strict=True)]
    if markdown:
        lines = [COLUMNS, ("---", *["---:"] * 5, "---", "---"), *cells]
        sys.stdout.write("".join(f"| {' | '.join(line)} |\n" for line in lines))
    else:
        print_table("Systems, one image of 256×256", COLUMNS, cells)


def _row(system: System) -> dict[str, Any]:
    from egeunet.models import count_cost, create_model

    cost: dict[str, int | None]
    try:
        cost, needs = asdict(count_cost(create_model(system.name))), None
    except MissingExtraError:
        cost = dict.fromkeys(("params", "macs", "activation_bytes"))
        needs = "egeunet[zoo]"  # the extra of all backbones
    return {
        "system": system.name,
        **cost,
        "needs": needs,
        "paper_params_m": float(system.table[0]) if system.table else None,
        "paper_gflops": float(system.table[1]) if system.table else None,
        "licence": system.licence,
        "paper": system.paper,
        "arxiv": system.arxiv,
    }


def _cells(system: System, row: dict[str, Any], markdown: bool) -> tuple[str, ...]:
    name, paper = system.name, system.paper
    if markdown:
        name = f"`{name}`"
        paper = f"[{paper}](https://arxiv.org/abs/{system.arxiv})" if system.arxiv else paper
    if row["needs"]:
        cost = (f"needs {row['needs']}", "", "")
    else:
        memory = row["activation_bytes"] / 1e6
        cost = (f"{row['params']:,}", f"{row['macs'] / 1e9:.4f}", f"{memory:.1f}")
    return (name, *cost, *(system.table or ("–", "–")), system.licence, paper)
