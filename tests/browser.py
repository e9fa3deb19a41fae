"""Chromium without a window, driven by selenium; tests skip where one of them is missing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
)


@contextmanager
def started_browser(folder: Path) -> Iterator[object]:
    """A driver of a browser whose profile is an empty folder."""
    pytest.importorskip("selenium")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (browser and driver):
        pytest.skip("chromium and chromedriver are not installed")
    options = ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS.split(), f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = Chrome(options, ChromeService(driver))
    try:
        yield window
    finally:
        window.quit()


def complaints(window: object) -> list[str]:
    """What the browser noted as an error since the last call."""
    return [entry["message"] for entry in window.get_log("browser") if entry["level"] == "SEVERE"]
