"""``python -m demo.screenshots FOLDER``: the web interface as a person uses it, in a headless Chromium, with pictures.

It starts ``python -m demo.web --bare``, adds the connection through its form, presses Test, runs the DAG, watches the
task defer and its log grow, and opens details, link and XCom. It stops with an error wherever a page lacks what it
should show.

Not part of ``make test``: it needs Chromium (Debian: ``apt install chromium``) and ``pip install playwright``, which
drives it; Playwright's own browsers are not used.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playwright.sync_api import Page, expect, sync_playwright

from demo.environment import CHECKOUT, DAG_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONN_ID: Final = "llmbatch_default"
_WAITING_TASK: Final = "classify"
_CONSOLE: Final = re.compile(r"https://console\.example/batches/batch_\w+")
_PART_DONE: Final = re.compile(r"\b([1-9]|[1-5]\d|6[0-3])/64 done")
_SIZE: Final = {"width": 1280, "height": 800}
_SLOW: Final = 60_000  # milliseconds for what Airflow does in the background


class Visitor:
    """A person at the screen, who keeps a picture of each page.

    :param url: Of Airflow.
    """

    def __init__(self, page: Page, url: str, folder: Path) -> None:
        self._page = page
        self._url = url
        self._folder = folder

    def picture(self, name: str) -> None:
        self._page.wait_for_timeout(700)  # transitions end
        self._page.screenshot(path=self._folder / f"{name}.png")
        print(f"{name}.png", flush=True)  # noqa: T201 - a script's way to say it

    def add_connection(self, server: str, key: str) -> None:
        page = self._page
        page.goto(f"{self._url}/connections")
        page.get_by_role("button", name="Add Connection").first.click()
        dialog = page.get_by_role("dialog")
        dialog.locator("input[name='connection_id']").fill(_CONN_ID)
        dialog.get_by_role("combobox").click()
        page.keyboard.type("LLM Batch")
        page.get_by_role("option", name="LLM Batch: OpenAI").click()
        dialog.locator("input[name='host']").fill(server)
        dialog.locator("input[name='port']").fill(server.rpartition(":")[2].partition("/")[0])
        dialog.locator("input[name='password']").fill(key)
        self.picture("connection-form")
        dialog.get_by_text("Extra Fields", exact=True).click()
        dialog.locator("input[name='element_console_url']").fill("https://console.example/batches/{batch_id}")
        dialog.get_by_role("button", name="Save").click()
        expect(dialog).to_be_hidden()
        page.get_by_label("Test Connection").click()
        expect(page.get_by_text("accepts the key").first).to_be_visible(timeout=_SLOW)
        self.picture("connection-test")

    def run_dag(self, output: str) -> str:
        """Returns the address of the run."""
        page = self._page
        page.goto(f"{self._url}/dags/{DAG_ID}")
        page.get_by_label("Trigger Dag").click()
        dialog = page.get_by_role("dialog")
        dialog.locator("input[name='element_output']").fill(output)
        self.picture("trigger")
        dialog.get_by_role("button", name="Trigger").click()
        page.wait_for_url("**/runs/**", timeout=_SLOW)
        return page.url.partition("?")[0]

    def watch_the_batch(self, run: str) -> None:
        """The log grows while nobody but the triggerer waits."""
        page = self._page
        page.goto(f"{run}/tasks/{_WAITING_TASK}")
        expect(page.get_by_text("Deferred").first).to_be_visible(timeout=_SLOW)
        page.goto(f"{run}/tasks/{_WAITING_TASK}")
        expect(page.get_by_text(_PART_DONE).first).to_be_visible(timeout=_SLOW)
        expect(page.get_by_text("Deferred").first).to_be_visible()
        self.picture("log-while-deferred")

    def open_the_link(self, run: str) -> None:
        page = self._page
        page.goto(f"{run}/tasks/{_WAITING_TASK}/details")
        link = page.get_by_role("link", name="LLM batch console")
        expect(link).to_be_visible(timeout=_SLOW)
        self.picture("details")
        # Nothing of the internet is asked for: what counts is where the button leads.
        page.context.route(_CONSOLE, lambda route: route.fulfill(body="the provider's console"))
        with page.expect_popup() as opened:
            link.click()
        expect(opened.value).to_have_url(_CONSOLE)
        opened.value.close()

    def see_the_end(self, run: str) -> None:
        page = self._page
        page.goto(run)
        expect(page.get_by_role("cell", name="Success")).to_have_count(6, timeout=_SLOW)
        self.picture("grid")
        page.goto(f"{run}/tasks/{_WAITING_TASK}")
        expect(page.get_by_text("64/64 done, 0 failed").first).to_be_visible(timeout=_SLOW)
        self.picture("log")
        page.goto(f"{run}/tasks/{_WAITING_TASK}/xcom")
        expect(page.get_by_text("output_file_id").first).to_be_visible(timeout=_SLOW)
        self.picture("xcom")


def visit(visitor: Visitor, *, server: str, key: str, output: Path) -> None:
    visitor.add_connection(server, key)
    run = visitor.run_dag(output.as_uri())
    visitor.watch_the_batch(run)
    visitor.open_the_link(run)
    visitor.see_the_end(run)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--engine", default="local", help="default: %(default)s")
    parser.add_argument("--python", default=sys.executable, help="the Python of the demo (default: this one)")
    parser.add_argument("--home", type=Path, default=CHECKOUT / ".airflow" / "screenshots")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.home, ignore_errors=True)
    demo = subprocess.Popen(  # noqa: S603 - our own demo
        [options.python, "-m", "demo.web", "--bare", "--engine", options.engine, "--home", str(options.home)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        told = ""
        for line in demo.stdout or ():
            told += line
            if "Ctrl-C" in line:
                break
        airflow = _found(r"(http://127\.0\.0\.1:\d+)(?: |$)", told)
        server, key = _found(r"base URL (\S+), API key", told), _found(r"API key\s+(\S+) is yours", told)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport=_SIZE, device_scale_factor=1)
            visit(Visitor(page, airflow, options.folder), server=server, key=key, output=options.home / "output")
            browser.close()
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(30)
    return 0


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise SystemExit(f"The demo did not say {pattern!r}:\n{text}")
    return match[1]


if __name__ == "__main__":
    sys.exit(main())
