"""A page in a real browser, and short ways to what is visible on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait


class Page:
    """The page in the browser, and short ways to what is visible on it."""

    def __init__(self, driver: webdriver.Chrome, path: Path) -> None:
        self.driver, self.url = driver, path.as_uri()

    def go(self, fragment: str = "", width: int = 1000) -> None:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        self.driver.get(self.url + fragment)

    def script(self, code: str) -> Any:
        return self.driver.execute_script(code)

    def all(self, css: str) -> list[WebElement]:
        return [node for node in self.driver.find_elements(By.CSS_SELECTOR, css) if node.is_displayed()]

    def texts(self, css: str) -> list[str]:
        return [node.text for node in self.all(css)]

    def click(self, node: WebElement) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
        node.click()
        self._settle()

    def _settle(self) -> None:
        """Waits for two frames: what a click opens has no text before it has been drawn."""
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def one(self, css: str) -> WebElement:
        self.wait(lambda: self.all(css))  # what a script shows may come a moment after the page
        [node] = self.all(css)
        return node

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def wait(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, 10, poll_frequency=0.05).until(lambda _: condition())

    def requests(self) -> list[str]:
        """The addresses that pages have asked for since the last call; the browser's own are left out."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("chrome")]
