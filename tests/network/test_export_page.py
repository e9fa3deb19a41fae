"""The page for browsers answers as the networks do, pixel by pixel; names are texts; what it cannot show is said."""

import base64
import importlib.util
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import complaints
from PIL import Image

from segdistill.dataset import CamVid
from segdistill.dataset.depth import DepthRange
from segdistill.dataset.files import read_image
from segdistill.dataset.normalization import CAFFE, IMAGENET
from segdistill.libs.download import download
from segdistill.network import build_network, load_network
from segdistill.network.__main__ import main as network_tool
from segdistill.network.export import page
from segdistill.network.export.base import Deployed, sample_pictures, text_of
from segdistill.network.export.onnx import TOLERANCE
from segdistill.network.weights.checkpoint import atomic_save, export_weights
from segdistill.utils.predict import whole
from segdistill.utils.tasks.depth import colors_of
from segdistill.utils.visualize import colorize

DEPTH = Path(__file__).parents[2] / "ckpt/scenes_depth_teacher.pth"
EVIL = ("</script><script>window.hacked=1</script>", "<img src=x onerror=window.hacked=2>", *CamVid.CLASSES[2:])

needs_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="onnx is not installed"
)


def save_network(path, normalization=IMAGENET):
    torch.manual_seed(0)
    network = build_network("espnet_c", len(EVIL), p=1, q=1).eval()
    atomic_save(export_weights(network, normalization, classes=EVIL, palette=CamVid.PALETTE), path)
    return network


def save_greatest_channel(path, output="classes"):
    """An exported file that answers the index of the greatest of red, green and blue, and calls that ``output``."""
    import onnx

    shapes = [1, 3, "H", "W"], [1, "H", "W"]
    images, classes = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape)
        for name, shape in zip(("images", "classes"), shapes, strict=True)
    )
    nodes = [
        onnx.helper.make_node("Cast", ["images"], ["floats"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ArgMax", ["floats"], ["greatest"], axis=1, keepdims=0),
        onnx.helper.make_node("Cast", ["greatest"], ["classes"], to=onnx.TensorProto.UINT8),
    ]
    graph = onnx.helper.make_graph(nodes, "greatest", [images], [classes])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    described = {"output": output, "classes": EVIL, "palette": CamVid.PALETTE, "num_classes": len(EVIL)}
    onnx.helper.set_model_props(
        model, text_of(described | {"network": "greatest", "parameters": 0, "counts_void": False})
    )
    onnx.save(model, path)


@pytest.fixture(scope="module")
def runtime(pytestconfig):
    """onnxruntime-web's package, kept between test runs; skips where it cannot be fetched."""
    file = Path(pytestconfig.cache.mkdir("onnxruntime-web"), page.RUNTIME)
    try:
        return download(page.URL, file, page.SHA256)
    except OSError as error:
        pytest.skip(f"no onnxruntime-web: {error}")


@pytest.fixture
def pictures(tmp_path):
    """A drawn picture of an odd size, and one of CamVid where the data are."""
    Image.fromarray(sample_pictures([(65, 97)])[0].permute(1, 2, 0).numpy()).save(tmp_path / "drawn.png")
    real = sorted(Path(os.environ.get("SEGDISTILL_DATA", tmp_path), "camvid/test").glob("*.png"))[:1]
    return [tmp_path / "drawn.png", *real]


def canvases(browser):
    """What the page's canvases show, (H, W, 3) uint8."""
    script = "return [...document.querySelectorAll('canvas')].map(canvas => canvas.toDataURL())"
    contents = [base64.b64decode(address.partition(",")[2]) for address in browser.execute_script(script)]
    return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents]


def change(browser, name, value):
    script = "const part = document.getElementById(arguments[0]); part.value = arguments[1]; "
    browser.execute_script(
        script + "for (const kind of ['input', 'change']) part.dispatchEvent(new Event(kind))", name, value
    )


def pointed_at(browser, row, column):
    """What the first network's caption says while the pointer is at the middle of a pixel."""
    script = """
        const [row, column] = arguments, canvas = document.querySelector("canvas"), box = canvas.getBoundingClientRect()
        const clientX = box.left + canvas.clientLeft + (column + 0.5) * canvas.clientWidth / canvas.width
        const clientY = box.top + canvas.clientTop + (row + 0.5) * canvas.clientHeight / canvas.height
        canvas.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }))
        return document.querySelector("figcaption span").textContent"""
    return browser.execute_script(script, row, column)


class Demo:
    """A page in a browser."""

    def __init__(self, browser, file):
        self.browser = browser
        browser.get(file.as_uri())
        self.until(lambda: self.said().startswith("Ready"))

    def until(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 60).until(lambda _: condition())

    def said(self):
        return self.browser.find_element("id", "status").text

    def is_idle(self):
        return self.browser.find_element("id", "networks").get_attribute("aria-busy") == "false"

    def show(self, file):
        """Show a picture without its colours being mixed with it; returns it, (3, H, W) uint8."""
        image = read_image(file)
        size = f"{image.shape[2]} x {image.shape[1]}"
        self.browser.find_element("id", "file").send_keys(str(file))
        self.until(lambda: self.said() == size and self.is_idle())
        change(self.browser, "opacity", 1)
        return image


@pytest.mark.slow
@torch.no_grad()
@needs_onnx
def test_two_networks_answer_in_a_browser_as_they_do_here(browser, runtime, pictures, tmp_path):
    network = save_network(tmp_path / "alone <b>.pth", CAFFE)
    save_greatest_channel(tmp_path / "taught.onnx")  # an exported file is taken as it is
    sources = [str(tmp_path / "alone <b>.pth"), str(tmp_path / "taught.onnx")]
    assert network_tool(["export", *sources, str(tmp_path / "demo.html"), "--runtime", str(runtime)]) == 0

    demo = Demo(browser, tmp_path / "demo.html")
    for file in pictures:
        image = demo.show(file)
        logits = Deployed(network, CAFFE).logits(image[None])[0]
        best, second = logits.topk(2, dim=0).values
        is_tie = (best - second <= 2 * TOLERANCE * logits.abs().max()).numpy()
        assert is_tie.mean() < 1e-3
        ids = whole(network).class_ids(CAFFE(image[None]))[0].numpy()  # as eval.py predicts
        network_s, greatest = canvases(browser)
        differ = (network_s != colorize(ids, CamVid.PALETTE)).any(2)
        assert not (differ & ~is_tie).any()
        assert np.array_equal(greatest, colorize(image.numpy().argmax(0), CamVid.PALETTE))
    present = {EVIL[i] for i in np.unique(ids)}
    legend = browser.find_element("id", "legend").text
    assert all(name in legend for name in present)
    captions = [caption.text for caption in browser.find_elements("tag name", "figcaption")]
    assert [caption.partition(",")[0] for caption in captions] == ["alone <b>", "taught"]
    assert all("ms" in caption for caption in captions)

    (tmp_path / "text.png").write_text("no picture")
    browser.find_element("id", "file").send_keys(str(tmp_path / "text.png"))
    demo.until(lambda: demo.said() == "text.png is no picture that this browser reads")

    change(browser, "limit", 256)  # a picture that is small enough stays as it is
    browser.find_element("id", "camera").click()
    demo.until(lambda: demo.said().endswith("scaled to 256 x 192"))
    browser.find_element("id", "camera").click()
    assert complaints(browser) == []
    assert browser.execute_script("return window.hacked") is None


@pytest.mark.slow
@torch.no_grad()
@needs_onnx
def test_depth_is_shown_in_its_colours_with_a_scale_and_metres_under_the_pointer(browser, runtime, pictures, tmp_path):
    files = [str(DEPTH), str(tmp_path / "exported.onnx"), str(tmp_path / "demo.html")]
    assert network_tool(["export", *files[:2]]) == 0
    assert network_tool(["export", *files, "--runtime", str(runtime)]) == 0
    demo = Demo(browser, tmp_path / "demo.html")
    network, report = load_network(DEPTH)
    for file in pictures:
        image = demo.show(file)
        depth = Deployed(network.eval(), report.normalization, output="depth")(image[None])[0, 0].numpy()
        for drawn in canvases(browser):
            away = np.abs(drawn.astype(int) - colors_of(depth, network.depth))
            assert away.max() <= 3  # 256 colours for the whole range
    scale = browser.find_element("id", "legend").text.split("\n")
    assert scale == ["2 m", "4.18 m", "8.75 m", "18.3 m", "38.3 m", "80 m"]
    for row, column in ((0, 0), (20, 33), (depth.shape[0] - 1, depth.shape[1] - 1)):
        assert float(pointed_at(browser, row, column).removesuffix(" m")) == pytest.approx(depth[row, column], rel=6e-3)
    assert complaints(browser) == []


@pytest.fixture
def no_runtime(monkeypatch):
    monkeypatch.setattr(page, "runtime_parts", lambda package: {"script": b"", "wasm": b""})


def shown(folder, classes, depth=None):
    (folder / "x.onnx").write_bytes(b"a network")
    return page.Shown(folder / "x.onnx", 1, classes, CamVid.PALETTE, depth)


@pytest.mark.usefixtures("no_runtime")
def test_two_pages_of_the_same_networks_are_equal_bytes_and_no_name_ends_the_script(tmp_path):
    files = [tmp_path / name for name in ("a.html", "b.html")]
    for file in files:
        page.write_page({EVIL[0]: shown(tmp_path, EVIL)}, file, tmp_path)
    text = files[0].read_text()
    assert text == files[1].read_text()
    assert EVIL[0] not in text
    assert text.count("</script>") == Path(page.__file__).with_name("page.html").read_text().count("</script>")


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ((("road", "sky"),), (("sky", "road"),), "classes"),
        (((), DepthRange(2, 80)), (("road",),), "classes"),
        (((), DepthRange(2, 80)), ((), DepthRange(1, 80)), "ranges of depth"),
    ],
)
def test_networks_that_share_no_legend_are_no_page(one, other, what, tmp_path):
    with pytest.raises(ValueError, match=f"the {what} of a and b differ"):
        page.write_page({"a": shown(tmp_path, *one), "b": shown(tmp_path, *other)}, tmp_path / "x.html", tmp_path)
    assert not (tmp_path / "x.html").exists()


def test_another_package_is_refused(tmp_path):
    (tmp_path / "other.tgz").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"other\.tgz has SHA-256 .*, expected d2228df7"):
        page.write_page({"a": shown(tmp_path, ("road",))}, tmp_path / "x.html", tmp_path / "other.tgz")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.usefixtures("no_runtime")
def test_a_folder_that_takes_no_files_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"x\.html"):
        page.write_page({"a": shown(tmp_path, ("road",))}, tmp_path / "file" / "x.html", tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.pth", "b.pth", "x.onnx"], "x.onnx holds one network"),
        (["a.pth", "x.html", "--answer", "logits"], "a page shows classes"),
        (["a.pth", "x.html", "--format", "pt2"], "a page shows classes"),
    ],
)
def test_flags_that_do_not_fit_are_named(words, message, capsys):
    with pytest.raises(SystemExit):
        network_tool(["export", *words])
    assert message in capsys.readouterr().err


@needs_onnx
def test_of_exported_files_a_page_takes_classes_and_depth(tmp_path):
    save_greatest_channel(tmp_path / "a.onnx", "logits")
    with pytest.raises(ValueError, match="takes those for ONNX that answer classes or depth"):
        network_tool(["export", str(tmp_path / "a.onnx"), str(tmp_path / "x.html")])
    assert not (tmp_path / "x.html").exists()
