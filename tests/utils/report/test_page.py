"""report.html in a browser: what report.md says, sorted, drawn and pointed at; names are texts, never markup."""

import io
import json
import re

import numpy as np
import pytest
from browser import complaints
from PIL import Image
from runs import PI, cells, change, write_lines

from segdistill.dataset import build_dataset
from segdistill.utils.report import compare_groups, write_comparison, write_run_report
from segdistill.utils.visualize import colorize

EVIL = "<script>window.hacked=1</script>"
CLASSES = ["b & a", "</script><img src=x onerror=window.hacked=2>", "a"]


def text_of(browser, page):
    browser.set_window_size(700, 1000)
    browser.get(page.as_uri())
    assert complaints(browser) == []
    assert browser.execute_script("return window.hacked") is None
    return browser.execute_script("return document.querySelector('main').innerText")


def page_rows(browser):
    """The cells of all tables, as ``cells`` has them, without rules."""
    script = "return [...document.querySelectorAll('tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    return browser.execute_script(script)


def rows_of(text):
    """The same of Markdown; bold is bold in the page."""
    rows = [[cell.strip("*") for cell in row] for row in cells(text)]
    return [row for row in rows if not all(re.fullmatch("-+:?", cell) and len(cell) > 1 for cell in row)]


def hover(browser, element, across=0.0):
    """What the page says of the point at a share of the element's width, from its middle."""
    from selenium.webdriver import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(browser).move_to_element_with_offset(element, int(across * element.rect["width"]), 0).perform()
    return browser.execute_script("return document.getElementById('tip').textContent")


@pytest.mark.slow
def test_the_page_of_a_comparison(browser, make_run, tiny, tmp_path):
    groups = {}
    for name, terms, ious in (("alone", [], [0.4, 0.1, 0.3]), (EVIL, [PI], [0.5, None, 0.2])):
        groups[name] = [make_run(f"{len(name)}-{seed}", terms, seed, 0.4) for seed in (0, 1)]
        for run in groups[name]:
            change(run / "evaluation.json", classes=CLASSES, iou=ious)
            rows = [{"step": step, "loss/x": 20 / step, "val/mean_iou": step / 40} for step in range(1, 21)]
            write_lines(run, *map(json.dumps, rows))
    write_comparison(compare_groups(groups["alone"], [(EVIL, groups[EVIL])]), tmp_path / "out", num_images=1)
    shown = text_of(browser, tmp_path / "out/report.html")

    text = (tmp_path / "out/report.md").read_text()
    assert page_rows(browser) == rows_of(text)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    assert all(heading in shown for heading in headings)
    assert headings[0] == browser.title == f"{EVIL} against alone"

    table = browser.find_elements("tag name", "table")[1]
    names = lambda: [row.text for row in table.find_elements("css selector", "tbody td:first-child")]  # noqa: E731
    _, alone, distilled = table.find_elements("tag name", "button")
    alone.click()
    assert names() == ["b & a", "a", CLASSES[1]]
    alone.click()
    assert names() == [CLASSES[1], "a", "b & a"]
    distilled.click()
    assert names() == ["b & a", "a", CLASSES[1]]  # "-" is last
    distilled.click()
    distilled.click()
    assert names() == CLASSES
    assert table.find_element("css selector", "tfoot td").text == "mIoU"

    deltas, scores, *_ = browser.find_elements("tag name", "svg")
    bars = deltas.find_elements("tag name", "g")
    assert hover(browser, bars[0]) == f"b & a\n{EVIL}: +10.00 (+10.00, +10.00)"
    assert hover(browser, bars[1]) == f"{CLASSES[1]}\n{EVIL}: -"
    lines = [f"{name}, seed {seed}: 50" for name in ("alone", EVIL) for seed in (0, 1)]
    assert hover(browser, scores, 0.4999) == "\n".join(["step 20", *lines])

    (box,) = browser.find_elements("class name", "compare")
    left, right = browser.find_elements("css selector", "div.choices > label > select")[-2:]
    dataset = build_dataset("camvid", tiny / "camvid", "test")
    sample = dataset[0]
    image, truth = sample.image.permute(1, 2, 0).numpy(), colorize(sample.label.numpy(), dataset.PALETTE)
    right.send_keys("truth")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    for cut, expected in ((0, truth), (100, image)):
        move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        browser.execute_script(move, box.find_element("tag name", "input"), cut)
        seen = Image.open(io.BytesIO(box.screenshot_as_png)).convert("RGB").resize((64, 64), Image.Resampling.BOX)
        # Names are at the lower edge, the line is at the side.
        error = np.abs(np.asarray(seen, int) - expected)[4:-8, 4:-4]
        assert np.median(error) <= 4
    assert left.get_attribute("value") == "0"


@pytest.mark.slow
def test_the_page_of_a_run(browser, make_run):
    run = make_run(EVIL.replace("/", "|"), [PI])
    cells = [np.full((20, 30, 3), value, np.uint8) for value in (9, 99, 200)]
    Image.fromarray(np.concatenate(cells, axis=1)).save(run / "predictions.png")
    write_run_report(run)
    text_of(browser, run / "report.html")
    assert page_rows(browser) == rows_of((run / "report.md").read_text())
    (box,) = browser.find_elements("class name", "compare")
    assert [name.text for name in box.find_elements("tag name", "span")] == ["image", "student"]
    seen = np.asarray(Image.open(io.BytesIO(box.screenshot_as_png)).convert("L"))
    assert [seen[9, 9], seen[9, -9]] == [9, 200]
