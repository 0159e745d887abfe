"""Debian's Chromium, without a screen, logged in to a running Airflow."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.system.stack import Stack

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE_S = 60.0
#: Where screenshots go, if somewhere (CONTRIBUTING.md has the command).
PICTURES = os.environ.get("RANKVOL_SCREENSHOTS")


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome, base: str) -> None:
        self.driver = driver
        self.base = base

    def open(self, path: str) -> None:
        """Go to a page of Airflow."""
        self.driver.get(f"{self.base}{path}")

    def log_in(self, stack: Stack, user: str) -> None:
        """Log in by Airflow's own form."""
        self.open("/")
        self.find("input[name=username]").send_keys(user)
        self.find("input[name=password]").send_keys(stack.passwords[user])
        self.find("button[type=submit]").click()
        self.wait(lambda: "/auth/" not in self.driver.current_url, "logged in")

    def into_page(self, summary: str) -> None:
        """Open the page as Airflow shows it, until it has looked again and shows a group with that text."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.driver.switch_to.default_content()
            self.open("/plugin/rankvol")
            self.into_frame()
            if any(summary in text for text in self.texts("summary")):
                return
            assert time.monotonic() < deadline, self.texts("summary")

    def into_frame(self) -> None:
        """Go on inside of the frame that the page is shown in, once it has looked."""
        self.driver.switch_to.frame(self.find("iframe"))
        self.wait(lambda: self.find("#status").text.startswith("As of"), "the page has looked")

    def find(self, selector: str, text: str = "") -> WebElement:
        """Return the first element shown that a CSS selector finds, with that text in it, once there is one."""
        found: list[WebElement] = []

        def look() -> bool:
            elements = self.driver.find_elements(By.CSS_SELECTOR, selector)
            found[:] = [each for each in elements if each.is_displayed() and text in each.text]
            return bool(found)

        self.wait(look, f"{selector} {text!r}")
        return found[0]

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that a selector finds now."""
        return [each.text for each in self.driver.find_elements(By.CSS_SELECTOR, selector) if each.is_displayed()]

    def wait_for_texts(self, selector: str, number: int) -> list[str]:
        """Return the texts of that many elements, once they are there."""
        self.wait(lambda: len(self.texts(selector)) == number, f"{number} of {selector}")
        return self.texts(selector)

    def run(self, script: str, *args: Any) -> Any:
        """Run JavaScript in the page, and return what its promise becomes."""
        body = f"const done = arguments[arguments.length - 1]; (async () => {{{script}}})().then(done)"
        return self.driver.execute_async_script(body, *args)

    def wait(self, done: Callable[[], Any], what: str) -> None:
        """Wait for something that comes in its own time."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if done():
                    return
            except (NoSuchElementException, StaleElementReferenceException):
                pass  # the page has replaced it
            assert time.monotonic() < deadline, (
                f"not seen: {what}\n{self.driver.find_element(By.TAG_NAME, 'body').text}"
            )
            time.sleep(0.1)

    def picture(self, name: str) -> None:
        """Keep what the window shows, where somebody wants that."""
        if PICTURES:
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(PICTURES, f"{name}.png")))

    def complaints(self, where: str = "/rankvol/") -> list[str]:
        """Return what the browser complains of in the page's own files: blocked by the policy, or wrong."""
        logs: list[dict[str, Any]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        found = [log["message"] for log in logs if log["level"] == "SEVERE" and where in log["message"]]
        return [text for text in found if "status of 401" not in text and "favicon" not in text]


@contextmanager
def browser(base: str, *, dark: bool = False) -> Iterator[Browser]:
    """Open a window of its own profile; the browser ends with its driver, and leaves no file.

    Args:
        base: the URL that its paths are below.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1600,1000"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with TemporaryDirectory(prefix="rankvol-chromium-", ignore_cleanup_errors=True) as folder:
        service = webdriver.ChromeService(DRIVER, env={**os.environ, "TMPDIR": folder})
        driver = webdriver.Chrome(options=options, service=service)
        try:
            if dark:
                scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
                driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
            yield Browser(driver, base)
        finally:
            try:
                driver.quit()
            except WebDriverException:  # it has ended by itself
                service.stop()
