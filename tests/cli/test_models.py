"""`egeunet models` reproduces the counts of every model, to the digits they are published with."""

import importlib.util
import json
import sys

import pytest
from typer.testing import CliRunner

from egeunet.cli.main import app
from egeunet.cli.models import table_row
from egeunet.models import list_models
from egeunet.models.registry import model_info

# Model: parameters, exactly; billion MACs as printed; the paper's parameters (M) and GFLOPs.
PUBLISHED = {
    "egeunet": (53_374, "0.072096256", 0.053, 0.072),
    "egeunet_baseline": (107_041, "0.0724", 0.107, 0.076),
    "egeunet_baseline_ghpa": (34_273, "0.0584", 0.034, 0.058),
    "egeunet_baseline_gab": (126_142, "0.0861", 0.126, 0.086),
    "egeunet_no_multi_axis": (73_526, "0.0738", 0.074, 0.074),
    "egeunet_no_dw": (49_948, "0.0719", 0.050, 0.072),
    "egeunet_no_mask": (52_449, "0.0701", 0.052, 0.070),
    "egeunet_no_dilation": (53_374, "0.0721", 0.053, 0.072),
    "unet": (7_766_945, "12.07", 7.77, 13.76),
    "unetpp": (9_163_329, "34.49", 9.16, 34.86),
    "attunet": (8_726_077, "16.64", 8.73, 16.71),
    "utnetv2": (12_808_449, "15.53", 12.80, 15.50),
    "sanet": (23_899_497, "5.93", 23.90, 5.96),
    "transfuse": (26_273_301, "11.86", 26.16, 11.50),
    "mobilevitv2": (1_870_586, "0.7008", 1.87, 0.70),
    "mobilenetv3": (1_192_297, "0.1034", 1.19, 0.10),
    "unext_s": (253_561, "0.0992", 0.32, 0.10),
    "malunet": (177_943, "0.0827", 0.177, 0.085),
    "ulite": (878_417, "0.7365", None, None),
    "mk_unet_t": (27_384, "0.0495", None, None),
    "mk_unet_s": (93_050, "0.104", None, None),
    "mk_unet": (315_566, "0.278", None, None),
    "ultralight_vm_unet": (49_457, "0.0660", None, None),
    "aulunet": (28_636, "0.0576", None, None),
    "ucm_net": (47_436, "0.0337", None, None),  # 0.0421 with the heads of training
    "lb_unet": (55_865, "0.0937", None, None),
    "cmunext_s": (417_505, "1.012", None, None),
    "tinyu_net": (481_105, "1.561", None, None),
    "efficientnet_lite0": (3_334_417, "0.5294", None, None),  # with our decoder: printed nowhere
}


@pytest.fixture(scope="module")
def rows():
    result = CliRunner().invoke(app, ["models", "--json"])
    assert result.exit_code == 0
    return {row["model"]: row for row in json.loads(result.stdout)}


def test_every_model_is_checked_here(rows):
    assert set(rows) == set(PUBLISHED) == set(list_models())


@pytest.mark.parametrize("name", PUBLISHED)
def test_row(rows, name):
    row = rows[name]
    params, macs, paper_params, paper_gflops = PUBLISHED[name]
    assert (row["paper_params_m"], row["paper_gflops"]) == (paper_params, paper_gflops)
    assert row["paper"]
    assert row["licence"]
    if row["needs"]:
        assert not importlib.util.find_spec("timm")
        pytest.skip(f"needs {row['needs']}")
    assert row["params"] == params
    decimals = len(macs.partition(".")[2])
    assert abs(row["macs"] / 1e9 - float(macs)) < 10**-decimals
    assert 1e6 < row["activation_bytes"] < 1e9


def test_without_timm_the_others_are_counted_and_the_rest_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    result = CliRunner().invoke(app, ["models", "--json"])
    assert result.exit_code == 0
    rows = {row["model"]: row for row in json.loads(result.stdout)}
    assert rows["egeunet"]["params"] == 53_374
    needing = {name for name, row in rows.items() if row["needs"] == "egeunet[zoo]"}
    assert table_row(model_info("sanet"))[1] == "needs egeunet[zoo]"
    assert needing == {"efficientnet_lite0", "mobilenetv3", "mobilevitv2", "sanet", "transfuse"}


def test_the_table_for_people_is_not_cut():
    result = CliRunner().invoke(app, ["models"])
    line = next(line for line in result.stdout.splitlines() if " mk_unet_s " in line)
    for cell in ("93,050", "0.1042", "9.4", "–", "BSD-3-Clause", "ICCV 2025 workshops"):
        assert cell in line
