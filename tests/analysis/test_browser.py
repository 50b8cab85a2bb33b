"""The report in a browser: headless Chromium, where it is installed (Debian: chromium and chromium-driver)."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from analysis import report
from analysis.load import load_studies
from tests.analysis.made import make_study
from trainables import corpora

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed"),
]

COUNT = """
const shown = svg => { const box = svg.getBoundingClientRect(); return box.width > 50 && box.height > 20; };
const svgs = [...document.querySelectorAll('figure > svg')];
const images = [...document.querySelectorAll('img, image')];
return {
  svgs: svgs.length, shown: svgs.filter(shown).length,
  wide: document.documentElement.scrollWidth <= document.documentElement.clientWidth,
  articles: document.querySelectorAll('article').length,
  fetched: performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).map(e => e.name),
  broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length, images: images.length,
  ink: getComputedStyle(document.body).color, paper: getComputedStyle(document.body).backgroundColor,
};
"""
PLAY = """
const done = arguments[0], sounds = [...document.querySelectorAll('audio')];
Promise.all(sounds.map(sound => new Promise(settle => {
  sound.onloadedmetadata = () => settle(sound.duration > 0);
  sound.onerror = () => settle(false);
  sound.load(); sound.preload = 'metadata';
}))).then(found => done({sounds: found.length, playable: found.filter(Boolean).length}));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    assert CHROMIUM and DRIVER
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--window-size=1000,900",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("studies")
    make_study(root / "all" / "mlp", trials=30, fails=lambda trial: trial == 9)
    make_study(root / "all" / "cnn <2>", "cnn2d", trials=12)
    return report.write(load_studies(root / "all"), root / "report")


def show(browser: webdriver.Chrome, page: Path) -> None:
    """Opens a page; on a busy machine `get` may return while the one before, or only a part, is there."""
    browser.get(page.as_uri())
    whole = "return document.readyState === 'complete' && location.href"
    WebDriverWait(browser, 60).until(lambda browser: browser.execute_script(whole) == page.as_uri())


def test_every_figure_is_shown_and_nothing_is_complained_of(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    found = browser.execute_script(COUNT)
    assert found["svgs"] == found["shown"] == len(list((page.parent / "figures").glob("*.svg"))) > 20
    assert found["broken"] == 0 and found["fetched"] == []
    assert found["wide"], "the page is wider than its window"
    assert browser.get_log("browser") == []


def test_it_is_readable_in_the_dark_and_on_paper(browser: webdriver.Chrome, page: Path) -> None:
    show(browser, page)
    colours = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        found = browser.execute_script(COUNT)
        colours.append((found["ink"], found["paper"]))
    assert colours[0] == ("rgb(27, 27, 27)", "rgb(255, 255, 255)")
    assert colours[1] == ("rgb(230, 230, 230)", "rgb(22, 24, 27)")
    paper = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert paper.startswith(b"%PDF") and len(paper) > 50_000
    assert browser.get_log("browser") == []


def test_its_recordings_play(
    browser: webdriver.Chrome, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    store = corpora.open_corpus(f"nsynth:{tiny_corpus}")
    study = make_study(tmp_path / "mlp", trials=1, baselines=False)
    config = json.loads((study / "best" / "config.json").read_text())
    config["config"]["data"] |= {"corpus": f"nsynth:{tiny_corpus}", "digest": store.digest}
    (study / "best" / "config.json").write_text(json.dumps(config))
    # Recordings are found by name, so the made-up predictions take those of the corpus' test split.
    predictions = pd.read_parquet(study / "best" / "predictions.parquet")
    names = store.clips.loc[store.clips["split"] == "test", "name"]
    rows = predictions[predictions["split"] == "test"].head(len(names)).index
    predictions.loc[rows, "name"] = names.to_numpy()[: len(rows)]
    predictions.to_parquet(study / "best" / "predictions.parquet")
    page = report.write(load_studies(study), tmp_path / "report")
    written = page.read_text()
    count = written.count("<audio")
    assert count, written[written.index("Recordings of the corpus") :]
    show(browser, page)
    found = browser.execute_async_script(PLAY)
    assert found == {"sounds": count, "playable": count}
    assert browser.get_log("browser") == []
