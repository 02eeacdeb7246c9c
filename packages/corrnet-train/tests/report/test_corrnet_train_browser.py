"""Every page that is written, as a browser shows it: on wide and narrow windows, with light and dark colors."""

import json
import os
import runpy
import select
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corrnet_train.cli import app
from corrnet_train.report import pages as page_modules
from corrnet_train.report.pages.comparison import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

FAULTS = """
(() => {
  const faults = [];
  const wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) faults.push(`the page is ${wide} pixels wide, the window ${innerWidth}`);
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = color => {  // of any CSS color
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, bottom) => top.slice(0, 3).map((value, i) => value * top[3] + bottom[i] * (1 - top[3]));
  const behind = element => {
    if (!element) return [255, 255, 255];
    const color = rgba(getComputedStyle(element).backgroundColor);
    return color[3] === 1 ? color.slice(0, 3) : over(color, behind(element.parentElement));
  };
  const luminance = color => {
    const [r, g, b] = color.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let number = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement, text = texts.currentNode.data.trim();
    if (!text || element.closest("style, .hidden, svg defs") || !element.getClientRects().length) continue;
    number += 1;
    const style = getComputedStyle(element), back = behind(element);
    const color = rgba(element.closest("svg") ? style.fill : style.color);
    const front = over([...color.slice(0, 3), color[3] * style.opacity], back);
    const [light, dark] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05), size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (contrast < (isLarge ? 3 : 4.5)) faults.push(`contrast ${contrast.toFixed(2)} of "${text.slice(0, 40)}"`);
  }
  if (!number) faults.push("there is no text");
  return faults;
})()
"""


class Browser:
    """A headless Chromium that is spoken to through pipes, in the DevTools protocol."""

    def __init__(self, to_browser, from_browser):
        self._to, self._from = to_browser, from_browser
        self._number, self._session, self.events, self._received = 0, {}, [], bytearray()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self):
        while (end := self._received.find(b"\0")) < 0:
            assert select.select([self._from], [], [], 120)[0], "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._received += data
        message = json.loads(self._received[:end])
        del self._received[: end + 1]
        return message

    def show(self, path, *, width, scheme):
        """Show a page; return what is wrong with it."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        faults = self.call("Runtime.evaluate", expression=FAULTS, returnByValue=True)["result"]["value"]
        wrong = (
            "Log.entryAdded",
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Network.loadingFailed",
        )
        return [*faults, *(event for event in self.events if event.get("method") in wrong)]


@contextmanager
def chromium(folder):
    (their_in, to_browser), (from_browser, their_out) = os.pipe(), os.pipe()
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank",
    ]  # fmt: skip

    def move_pipes():  # the browser reads descriptor 3 and writes to 4
        reading, writing = os.dup(their_in), os.dup(their_out)
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    process = subprocess.Popen(
        command, preexec_fn=move_pipes, close_fds=False, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    os.close(their_in), os.close(their_out)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        process.kill()
        process.wait()
        os.close(to_browser), os.close(from_browser)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(motionbench, model_folder, tmp_path_factory):
    """All pages of the package, by name."""
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("pages")
    video = next((motionbench[0] / "videos" / "test").rglob("*.mp4"))

    def corrnet(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output

    small = ("data.num_workers=0", "data.clip.num_frames=4", "data.clip.crop_size=16", "eval.num_clips=2")
    run = folder / "run"
    corrnet(
        "train", "motionbench", "model.name=r2d_tiny", f"data.shards={motionbench[1]}", f"run.dir={run}",
        "optim.batch_size=8", "optim.epochs=0.5", "run.device=cpu", *small,
    )  # fmt: skip
    corrnet(
        "eval", run, motionbench[1], "--num-workers", 0, "--num-clips", 1, "--output", folder / "evaluation"
    )
    for kind, targets in (("labels", ("jump", "run|jump", "run")), ("value", ("-3.5", "0", "12000"))):
        rows = [
            f"{path},{targets[number % 3]},{split}"
            for split in ("train", "val")
            for number, path in enumerate(sorted((motionbench[0] / "videos" / split).rglob("*.mp4"))[:8])
        ]
        (folder / f"{kind}.csv").write_text("\n".join([f"path,{kind},split", *rows]))
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            corrnet("train", f"{kind}.csv", "optim.epochs=1", *small)
        (folder / "runs" / kind / "report" / "report.html").rename(folder / f"{kind}.html")
    corrnet("inspect", motionbench[1], "--sheet", folder / "contact_sheet.html")
    corrnet("visualize", "filters", model_folder, "--output", folder / "filters.html")
    corrnet("visualize", "motion", model_folder, video, "--output", folder / "motion.html")
    made = runpy.run_path(str(Path(__file__).with_name("test_corrnet_train_report.py")))
    models = [
        made["model_record"](name) for name in ("corrnet", "r2plus1d", "a_model_with_quite_a_long_name")
    ]
    predictions = {model["name"]: [("left", 0.625), ("up", 0.25)] for model in models}
    sample = made["make_sample"](predictions=predictions)
    write_report(made["make_results"](*models), folder / "comparison.html", samples=[sample])
    return {path.stem: path for path in folder.rglob("*.html")}


def test_these_are_all_pages(pages):
    modules = {path.stem for path in Path(page_modules.__path__[0]).glob("*.py")} - {"__init__", "render"}
    of_evaluations = {"report", "labels", "value"}  # of one class, several labels, a number
    assert modules - {"evaluation"} == set(pages) - of_evaluations


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    "name", ["report", "labels", "value", "contact_sheet", "filters", "motion", "comparison"]
)
def test_a_page_can_be_read_in_a_browser(name, width, scheme, pages, browser):
    assert browser.show(pages[name], width=width, scheme=scheme) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<p style='color: #999'>text</p>", "contrast 2.85"),
        ("<p style='width: 3000px'>text</p>", "pixels wide"),
        ("<p>text</p><img src='missing.png'>", "missing.png"),
        ("<p>text</p><script>console.error('wrong')</script>", "wrong"),
        ("", "there is no text"),
    ],
)
def test_what_is_wrong_with_a_page_is_found(body, fault, browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body style='background: #fff'>{body}</body>")
    faults = browser.show(page, width=1280, scheme="light")
    assert fault in json.dumps(faults)
