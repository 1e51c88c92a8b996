"""What a visitor does with the page, in a browser, beside what Python says of the same photo."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

from egeunet import Segmenter
from egeunet.data.synthetic import draw
from egeunet.inference.visualize import bounding_box

WEB = Path(__file__).parents[1]
PAGE = WEB.parent / "src" / "egeunet" / "serve" / "page"
DATA = Path(os.environ.get("EGEUNET_DATA", WEB.parents[1] / "shared" / "data"))
PHOTOS = DATA / "isic2018"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("isic2018", backend="onnxruntime")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write(tmp_path / "mole.png", 8)


def write(path: Path, seed: int, size: tuple[int, int] = (300, 400), **settings: Any) -> Path:
    Image.fromarray(draw(seed, size)[0]).save(path, **settings)
    return path


def read_mask(path: Path) -> np.ndarray:
    values = np.asarray(Image.open(path).convert("L"))
    assert set(np.unique(values)) <= {0, 255}
    return values > 0


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return np.count_nonzero(first & second) / max(1, np.count_nonzero(first | second))


def move(page: Page, slider: str, value: int) -> None:
    page.locator(f"#{slider}").fill(str(value))


def test_the_sample_is_outlined_and_told(page: Page, numbers) -> None:
    page.get_by_role("button", name="Try a sample").click()
    page.get_by_text("Outlined sample.jpg.").wait_for()
    assert page.locator("#area").inner_text().endswith("% of the photo")
    assert page.locator("#runs").inner_text().startswith("WebAssembly, one thread, ")
    assert page.locator("#review").is_hidden()
    assert 0.05 < numbers()["area"] < 0.3


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp"])
def test_masks_and_numbers_are_those_of_python(ending, upload, saved, numbers, segmenter, tmp_path):
    path = write(tmp_path / f"photo.{ending}", 9, quality=90)
    upload(path)
    result = segmenter(path)
    mask = read_mask(saved("Save mask"))
    assert iou(mask, result.mask) > 0.99
    told = numbers()
    assert told["area_pixels"] == np.count_nonzero(mask)
    assert told["quality"] == pytest.approx(result.quality, abs=0.005)
    assert told["review"] == result.review
    assert tuple(told["box"]) == bounding_box(mask)


def test_on_real_photos_the_masks_are_those_of_python(upload, saved, segmenter) -> None:
    agreement = []
    for path in real_photos(200):
        upload(path)
        agreement.append(iou(read_mask(saved("Save mask")), segmenter(path).mask))
    print(f"{len(agreement)} photos: mean IoU {np.mean(agreement):.4f}, least {min(agreement):.4f}")
    assert np.mean(agreement) > 0.99


def test_on_real_photos_the_probabilities_are_those_of_python(
    page: Page, upload, saved, segmenter, tmp_path
) -> None:
    for path in real_photos(500):
        # Losslessly, because decoders of JPEG differ by more than the engines.
        exact = tmp_path / f"{path.stem}.png"
        Image.open(path).save(exact)
        upload(exact)
        probability = segmenter(exact).probability
        for percent in (1, 25, 50, 75, 99):
            move(page, "threshold", percent)
            mask = read_mask(saved("Save mask"))
            assert mask[probability >= percent / 100 + 1e-4].all()
            assert not mask[probability < percent / 100 - 1e-4].any()


def real_photos(step: int) -> list[Path]:
    found = sorted(PHOTOS.rglob("ISIC_*.jpg"))[::step]
    if not found:
        pytest.skip(f"no photos of ISIC 2018 in {PHOTOS}; set EGEUNET_DATA")
    return found


def test_polyps_are_outlined_with_their_own_weights(page: Page, photo, upload, saved, numbers):
    upload(photo)
    assert numbers()["weights"] == "isic2018"
    page.get_by_label("What to outline").select_option("Polyp (colonoscopy)")
    page.get_by_text("Outlined mole.png.").wait_for()
    result = Segmenter("kvasir", backend="onnxruntime")(photo)
    told = numbers()
    assert told["weights"] == "kvasir"
    assert told["quality"] == pytest.approx(result.quality, abs=0.005)
    assert iou(read_mask(saved("Save mask")), result.mask) > 0.99


def test_upright_and_transparent_photos(upload, saved, segmenter, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a phone held upright
    for path in (
        write(tmp_path / "turned.jpg", 2, exif=exif, quality=95),
        write(tmp_path / "clear.png", 2),
    ):
        if path.suffix == ".png":
            image = Image.open(path)
            image.putalpha(Image.linear_gradient("L").resize(image.size))
            image.save(path)
        upload(path)
        assert iou(read_mask(saved("Save mask")), segmenter(path).mask) > 0.99


def test_sliders_act_at_once(page: Page, photo, upload, numbers) -> None:
    upload(photo)
    areas = []
    for value in (5, 50, 95):
        move(page, "threshold", value)
        assert page.locator("#threshold-value").inner_text() == f"{value} %"
        areas.append(numbers()["area_pixels"])
    assert areas[0] > areas[1] > areas[2] > 0
    before = page.locator("#stage").screenshot()
    move(page, "opacity", 90)
    tinted = page.locator("#stage").screenshot()
    move(page, "compare", 0)
    bare = page.locator("#stage").screenshot()
    assert len({before, tinted, bare}) == 3


def test_the_overlay_is_the_photo_with_the_mask_on_it(photo, upload, saved) -> None:
    upload(photo)
    overlay = np.asarray(Image.open(saved("Save overlay")).convert("RGB")).astype(int)
    mask = read_mask(saved("Save mask"))
    plain = np.asarray(Image.open(photo)).astype(int)
    assert overlay.shape == plain.shape
    changed = np.abs(overlay - plain).max(axis=2) > 2
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.95


def test_square_millimetres_of_a_width_and_of_a_marked_length(page, photo, upload, numbers) -> None:
    upload(photo)
    page.get_by_label("Known length in mm").fill("40")  # 400 pixels
    told = numbers()
    assert told["area_mm2"] == pytest.approx(told["area_pixels"] / 100)
    assert "mm²" in page.locator("#area").inner_text()
    page.get_by_role("button", name="Mark two points").click()
    box = page.locator("#stage").bounding_box()
    for share in (0.25, 0.75):
        page.locator("#stage").click(position={"x": box["width"] * share, "y": box["height"] / 2})
    told = numbers()
    assert told["area_mm2"] == pytest.approx(told["area_pixels"] / 25, rel=0.02)


def test_a_length_is_marked_by_keys_too(page: Page, photo, upload, numbers) -> None:
    upload(photo)
    page.get_by_label("Known length in mm").fill("10")
    page.get_by_role("button", name="Mark two points").press("Enter")
    for key in (*["ArrowLeft"] * 5, "Enter", *["ArrowRight"] * 10, "Shift+ArrowRight", "Enter"):
        page.keyboard.press(key)
    told = numbers()  # 10.1 steps of 8 pixels
    assert told["area_mm2"] == pytest.approx(told["area_pixels"] * (10 / 80.8) ** 2)
    assert page.evaluate("document.activeElement.id") == "save-json"
    page.get_by_role("button", name="Mark two points").click()
    page.keyboard.press("Escape")
    assert page.locator("#mark").get_attribute("aria-pressed") == "false"
    assert numbers() == told


def mark(page: Page, *shares: float) -> None:
    """Mark points at shares of the photo's width."""
    page.get_by_role("button", name="Mark two points").click()
    box = page.locator("#stage").bounding_box()
    for share in shares:
        page.locator("#stage").click(position={"x": box["width"] * share, "y": box["height"] / 2})


def show(page: Page, name: str) -> None:
    page.locator("#list").get_by_role("button", name=name).click()
    page.get_by_text(f"Outlined {name}.").wait_for()


def test_each_photo_has_its_own_known_length(page: Page, tmp_path, numbers) -> None:
    paths = [write(tmp_path / f"{seed}.png", seed, (300, 400)) for seed in (1, 2)]
    page.set_input_files("#file", paths)
    page.get_by_text("Outlined 2.png.").wait_for()
    length = page.get_by_label("Known length in mm")
    length.fill("40")  # 400 pixels
    first = numbers()
    assert first["area_mm2"] == pytest.approx(first["area_pixels"] / 100)
    show(page, "1.png")
    assert length.input_value() == ""
    assert numbers()["area_mm2"] is None
    assert "mm²" not in page.locator("#area").inner_text()
    length.fill("80")
    mark(page, 0.25, 0.75)  # 200 pixels
    told = numbers()
    assert told["area_mm2"] == pytest.approx(told["area_pixels"] * 0.4**2, rel=0.02)
    show(page, "2.png")
    assert length.input_value() == "40"
    assert numbers() == first
    show(page, "1.png")
    assert numbers() == told


def test_points_without_a_length_ask_for_it(page: Page, photo, upload, numbers) -> None:
    upload(photo)
    mark(page, 0.25, 0.75)
    guide = page.locator("#guide")
    assert "Enter the distance between the two points" in guide.inner_text()
    assert page.evaluate("document.activeElement.id") == "length"
    assert numbers()["area_mm2"] is None
    page.get_by_label("Known length in mm").fill("20")  # 200 pixels
    assert guide.is_hidden()
    told = numbers()
    assert told["area_mm2"] == pytest.approx(told["area_pixels"] / 100, rel=0.02)
    page.get_by_role("button", name="Remove points").click()  # from now on of the whole width
    assert numbers()["area_mm2"] == pytest.approx(told["area_pixels"] / 400)


def test_the_same_point_twice_and_no_length_are_refused(page: Page, photo, upload, numbers) -> None:
    upload(photo)
    length = page.get_by_label("Known length in mm")
    length.fill("-5")
    assert page.get_by_text("Enter a number greater than 0.").is_visible()
    assert numbers()["area_mm2"] is None
    length.fill("20")
    mark(page, 0.5, 0.5)
    assert "Both points are the same" in page.locator("#guide").inner_text()
    box = page.locator("#stage").bounding_box()
    page.locator("#stage").click(position={"x": box["width"] - 2, "y": box["height"] / 2})
    told = numbers()
    assert told["area_mm2"] == pytest.approx(told["area_pixels"] / 100, rel=0.05)


def test_the_marked_length_is_drawn_where_the_mask_is_not(page: Page, photo, upload) -> None:
    upload(photo)
    page.get_by_label("Known length in mm").fill("20")
    move(page, "compare", 0)  # the bare photo
    before = page.locator("#stage").screenshot()
    mark(page, 0.6, 0.9)
    assert page.locator("#stage").screenshot() != before


def test_instructions_are_in_view_on_a_phone(page: Page, photo, upload) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    upload(photo)
    page.get_by_role("button", name="Mark two points").click()
    for words in ("Tap one end", "Now tap the other end"):
        guide = page.get_by_text(words).bounding_box()
        assert guide["y"] >= 0
        assert guide["y"] + guide["height"] <= 640
        page.locator("#stage").click(position={"x": 20, "y": 100})


def test_several_photos_are_a_list(page: Page, tmp_path, numbers) -> None:
    paths = [write(tmp_path / f"{seed}.png", seed) for seed in (1, 2, 3)]
    page.set_input_files("#file", paths)
    page.get_by_text("Outlined 3.png.").wait_for()
    assert page.locator("#list button").all_inner_texts() == ["1.png", "2.png", "3.png"]
    page.get_by_role("button", name="1.png").click()
    page.get_by_text("Outlined 1.png.").wait_for()
    assert numbers()["source"] == "1.png"


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_dropped_and_pasted_photos(page: Page, photo: Path, event: str) -> None:
    page.evaluate(
        """([event, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "given.png", {type: "image/png"}));
            document.dispatchEvent(event === "drop"
                ? new DragEvent("drop", {dataTransfer: data, cancelable: true, bubbles: true})
                : new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        }""",
        [event, list(photo.read_bytes())],
    )
    page.get_by_text("Outlined given.png.").wait_for()


def test_errors_say_what_helps_and_the_rest_is_done(page: Page, photo: Path, tmp_path) -> None:
    broken = tmp_path / "notes.jpg"
    broken.write_text("no photo")
    large = tmp_path / "large.png"
    Image.new("1", (9000, 8000)).save(large)
    page.set_input_files("#file", [broken, large, photo])
    alert = page.get_by_role("alert")
    alert.get_by_text("Cannot read notes.jpg").wait_for()
    assert "large.png is too large" in alert.inner_text()
    assert page.locator("#area").inner_text()
    page.set_input_files("#file", photo)
    page.get_by_text("Outlined mole.png.").wait_for()
    assert alert.is_hidden()


def test_a_doubtful_mask_is_to_be_checked(page: Page, upload, numbers, segmenter, tmp_path) -> None:
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert segmenter(path).review
    upload(path)
    assert page.locator("#review").is_visible()
    assert numbers()["review"]


def test_it_works_offline_once_loaded(page: Page, context: BrowserContext, photo, upload) -> None:
    page.evaluate("navigator.serviceWorker.ready.then(() => undefined)")
    context.set_offline(True)
    page.reload()
    page.get_by_text("Ready. Choose a photo.").wait_for()
    upload(photo)
    page.get_by_role("button", name="Try a sample").click()
    page.get_by_text("Outlined sample.jpg.").wait_for()


def test_the_keyboard_reaches_everything(page: Page, photo, upload) -> None:
    upload(photo)
    page.locator("body").click(position={"x": 2, "y": 2})
    wanted = {
        "file",
        "camera",
        "sample",
        "threshold",
        "opacity",
        "compare",
        "length",
        "mark",
        "weights",
    }
    wanted |= {"save-mask", "save-overlay", "save-json"}
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert wanted <= reached
    page.locator("#threshold").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#threshold-value").inner_text() == "51 %"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_bars_people_and_it_fits(page: Page, photo, upload, scheme, width) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    upload(photo)
    page.evaluate((WEB / "node_modules" / "axe-core" / "axe.min.js").read_text())
    for _ in range(2):  # at rest, and while a length is marked
        found = page.evaluate("axe.run()")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
        page.get_by_role("button", name="Mark two points").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.mouse.wheel(0, 10_000)
    page.wait_for_timeout(100)
    assert 0 <= page.get_by_text("Not a medical device").bounding_box()["y"] < 740


def test_a_phone_takes_photos_with_its_own_app(browser: Browser, page: Page, server: str) -> None:
    assert page.locator("#camera-file").is_hidden()
    with browser.new_context(has_touch=True, is_mobile=True) as phone:
        there = phone.new_page()
        there.goto(server)
        assert there.get_by_text("Take a photo").locator("visible=true").count() == 1
        assert there.locator("#camera-file").get_attribute("capture") == "environment"


def test_a_photo_taken_with_a_camera(launch, server: str) -> None:
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with launch(*fake) as browser:
        page = browser.new_page()
        page.goto(server)
        page.get_by_role("button", name="Take a photo").click()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("dialog").wait_for(state="hidden")
        page.get_by_role("button", name="Take a photo").click()
        page.get_by_role("button", name="Take photo").click()
        page.get_by_text(re.compile(r"Outlined camera-.*\.png\.")).wait_for()
        assert page.get_by_role("dialog").is_hidden()
        assert page.evaluate("document.querySelector('#view').srcObject.active") is False


def test_without_a_camera_it_says_so(page: Page) -> None:
    page.get_by_role("button", name="Take a photo").click()
    page.get_by_role("alert").get_by_text("No camera is available.").wait_for()


def test_without_webassembly_it_says_so(context: BrowserContext, server: str) -> None:
    context.add_init_script("delete globalThis.WebAssembly")
    page = context.new_page()
    page.goto(server)
    page.get_by_role("alert").get_by_text("The network needs WebAssembly").wait_for()


def test_without_the_network_it_says_so(context: BrowserContext, server: str) -> None:
    context.route("**/*.egeu", lambda route: route.abort())
    page = context.new_page()
    page.goto(server)
    page.get_by_role("alert").get_by_text("Cannot load the network.").wait_for()


def test_the_worker_cannot_ask_other_hosts(page: Page, server: str) -> None:
    (worker,) = page.workers
    ask = """url => fetch(url, {mode: "no-cors", signal: AbortSignal.timeout(5000)})
        .then(() => "answered", String)"""
    with socket.create_server(("127.0.0.1", 0)) as other:  # accepts, but never answers
        url = f"http://127.0.0.1:{other.getsockname()[1]}/"
        assert "Failed to fetch" in worker.evaluate(ask, url)
    assert worker.evaluate(ask, server) == "answered"


def test_sizes_beyond_32_bits_are_refused(page: Page) -> None:
    (engine,) = (PAGE / "assets").glob("*.wasm")
    sizes = page.evaluate(
        """async (url) => {
            const code = await (await fetch(url)).arrayBuffer();
            const { exports } = (await WebAssembly.instantiate(code)).instance;
            return [65535, 256].map((side) => [
                exports.egeunet_prepare_size(side, side, 32, side),
                exports.egeunet_resize_size(32, 32, side, side),
                exports.egeunet_resize_size(side, 32, side, side),
            ]);
        }""",
        f"assets/{engine.name}",
    )
    assert sizes[0][0] == sizes[0][2] == 0
    assert sizes[0][1] > 0
    assert min(sizes[1]) > 0


def test_the_page_is_small() -> None:
    size = sum(path.stat().st_size for path in PAGE.rglob("*.*"))
    assert size <= 700_000
