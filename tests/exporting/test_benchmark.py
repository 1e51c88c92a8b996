from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch._inductor.config as inductor

from egeunet.errors import UsageError
from egeunet.evaluation.figures import save_figure
from egeunet.exporting.benchmark import benchmark, latency_figure
from egeunet.inference.weights import SHIPPED

PUBLISHED = """
import torch
from timm.models.layers import trunc_normal_
from einops import rearrange

class EGEUNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 1, 1)
        print("was built")

    def forward(self, x):
        return (), torch.sigmoid(self.conv(x))
"""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "egeunet.py").write_text(PUBLISHED)
    return tmp_path


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """For torch.compile, which takes minutes where there is one."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    with inductor.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),)}):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("no_compiler")
def test_shipped_weights_are_measured_in_torch_and_every_format(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog
) -> None:
    monkeypatch.setenv("EGEUNET_DATA", str(tmp_path))
    report = benchmark(rounds=10)
    names = [row["name"] for row in report["rows"]]
    engine = ["engine float32", "engine float16"]
    runtimes = {"openvino": "openvino", "litert": "litert_torch"}
    runtimes |= {"executorch": "executorch", "ncnn": "pnnx"}
    others = [name for name, module in runtimes.items() if find_spec(module)]
    assert names == ["torch eager", *engine, "ONNX float32", "ONNX float16", *others]
    ious = [row["iou"] for row in report["rows"]]
    assert ious[0] is None
    assert all(iou > 0.99 for iou in ious[1:])
    assert all(row["peak_mb"] > 10 for row in report["rows"])
    assert "torch.compile does not work here" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("no_compiler")
def test_a_run_without_a_compiler(trained: Path, samples: Path, tmp_path: Path, caplog) -> None:
    report = benchmark(trained, data=samples, rounds=10)
    assert "torch.compile does not work here" in caplog.text
    rows = {row["name"]: row for row in report["rows"]}
    for name in ("engine", "ONNX"):
        exact, half = rows[f"{name} float32"], rows[f"{name} float16"]
        assert exact["dice"] == pytest.approx(rows["torch eager"]["dice"], abs=0.1)
        assert half["size_kb"] < exact["size_kb"]
    for row in rows.values():
        assert row["peak_mb"] > 10
        assert row["startup_s"] > 0
        for times in row["threads"].values():
            assert 0 < times["p50_ms"] <= times["p95_ms"]
            assert times["images_per_s"] > 0
    save_figure(latency_figure(report), tmp_path / "benchmark.png")
    assert (tmp_path / "benchmark.png").stat().st_size > 5000


def test_the_published_network_beside_an_onnx_file(
    published: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog, monkeypatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from published import load_published, published_backends

    caplog.set_level("INFO")
    others = partial(published_backends, published)
    report = benchmark(SHIPPED / "isic2018.onnx", others=others, rounds=10)
    names = [row["name"] for row in report["rows"]]
    assert names == ["published, torch eager", "published, ONNX", "ONNX"]
    assert all(row["dice"] is None for row in report["rows"])
    assert "of a file there is one row" in caplog.text
    assert "was built" not in capfd.readouterr().out
    with pytest.raises(UsageError, match=r"not a checkout.*models/egeunet\.py"):
        load_published(tmp_path / "elsewhere")


def test_too_few_rounds_are_refused(trained: Path) -> None:
    with pytest.raises(UsageError, match="rounds is 3"):
        benchmark(trained, rounds=3)
