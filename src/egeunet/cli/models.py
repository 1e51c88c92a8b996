"""`egeunet models`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from egeunet.cli.console import print_json, print_table
from egeunet.cli.options import Json
from egeunet.errors import MissingExtraError

if TYPE_CHECKING:
    from egeunet.models.registry import ModelInfo

COLUMNS = (
    *("model", "params", "MACs (G)", "memory (MB)", "paper (M)", "paper (G)", "licence"),
    "published in",
)


def models(as_json: Json = False) -> None:
    """List the models and what each costs for one image of 256×256.

    MACs are the multiply-accumulates of convolutions, linear layers and matrix products.

    Memory is the peak size of all activations alive at one time in float32. Weights and the image
    are not included. 1 MB is 10⁶ bytes.

    The paper columns show the parameters and GFLOPs printed in Tables 1 and 2 of the EGE-UNet
    paper; its GFLOPs are MACs as counted by other tools. The licence is that of the authors' public
    code; the code of this package is its own.

    For example:

        egeunet models --json
    """
    from egeunet.models.registry import list_models, model_info

    infos = [model_info(name) for name in list_models()]
    if as_json:
        print_json([_row(info) for info in infos])
    else:
        print_table("Models, one image of 256×256", COLUMNS, [table_row(info) for info in infos])


def table_row(info: ModelInfo) -> tuple[str, ...]:
    """Return the cells of a model under `COLUMNS`."""
    row = _row(info)
    cost = (f"needs {row['needs']}", "", "")
    if not row["needs"]:
        memory = row["activation_bytes"] / 1e6
        cost = (f"{row['params']:,}", f"{row['macs'] / 1e9:.4f}", f"{memory:.1f}")
    return (info.name, *cost, *(info.table or ("–", "–")), info.licence, info.paper)


def _row(info: ModelInfo) -> dict[str, Any]:
    from egeunet.models import count_cost, create_model

    cost: dict[str, int | None]
    try:
        cost, needs = asdict(count_cost(create_model(info.name))), None
    except MissingExtraError:
        cost = dict.fromkeys(("params", "macs", "activation_bytes"))
        needs = "egeunet[zoo]"  # the extra of all backbones
    return {
        "model": info.name,
        **cost,
        "needs": needs,
        "paper_params_m": float(info.table[0]) if info.table else None,
        "paper_gflops": float(info.table[1]) if info.table else None,
        "licence": info.licence,
        "paper": info.paper,
        "arxiv": info.arxiv,
    }
