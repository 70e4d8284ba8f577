"""Chromium without a window, as a test wants it: size, colour scheme, mouse, keys, and what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
)  # fmt: skip


class Browser:
    """One window on pages of this machine's disk."""

    def __init__(self, chromium: Path, driver: Path, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(chromium)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver: Any = webdriver.Chrome(service=Service(str(driver)), options=options)

    def open(self, page: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of that size, in CSS pixels. Forgets what was logged before."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(page.absolute().as_uri())

    def run(self, script: str, *args: Any) -> Any:
        """The value that a script returns."""
        return self.driver.execute_script(script, *args)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.all(selector)]

    def hover(self, element: Any) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element(element).perform()

    def press(self, *names: str) -> None:
        """Keys by the names that selenium has for them, such as TAB or ARROW_DOWN."""
        from selenium.webdriver import ActionChains, Keys

        for name in names:
            ActionChains(self.driver).send_keys(getattr(Keys, name)).perform()

    def errors(self) -> list[str]:
        """What the console said since the last call: errors, warnings, refusals of the page's policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Every address that was asked for since the last call, the page itself included."""
        import json

        sent = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [s["params"]["request"]["url"] for s in sent if s["method"] == "Network.requestWillBeSent"]

    def quit(self) -> None:
        self.driver.quit()
