"""The report of a run: complete, escaped, self-contained; correct for odd runs; in a real browser."""

import json
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.errors import UserError
from common.run_folder import RunFolder
from ensemble.blend import Request as Blend
from ensemble.blend import blend_run
from models.finetuning import architecture as zoo
from pipeline import stages
from pipeline.options import model_parser, network_of
from tests.commands import here, refusal, succeeded
from tests.ensemble.conftest import FOLDS, SmallRun, make_small
from tests.fold_runs import finish_fold
from tools.report import Request, _command, write_comparison, write_report

SECTIONS = ["headline", "sound", "models", "blend", "fails", "made"]
VOID = {"meta", "link", "br", "img", "input", "hr"}
STRANGE_IMAGE = """<script>alert("x")&'<b>.jpg"""
STRANGE_DRIVER = "\"><img src=x onerror='alert(1)'>"
HISTORY = """epoch,stage,training_loss,held_out_log_loss,held_out_accuracy,seconds
1,head,2.0,2.1,0.2,1
2,network,1,,,1
"""
WIDER_THAN_THE_PAGE = """
    [...document.querySelectorAll("figure, .cards > div, li")]
        .filter(element => element.getBoundingClientRect().right > innerWidth).length
"""


class Page(HTMLParser):
    """What a browser makes of a page: its text, tags, and attributes; unclosed elements are an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    @property
    def sections(self) -> list[str]:
        return [value for tag, name, value in self.attributes if (tag, name) == ("section", "id")]

    def require_self_contained(self) -> None:
        """Nothing is fetched, no attribute is a script, and ids differ."""
        assert self.tags.count("script") == 1
        for tag, name, value in self.attributes:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value.startswith(("data:", "#")), (tag, name, value)
            assert "http" not in value.removeprefix("http-equiv"), (tag, name, value)
        ids = [value for _, name, value in self.attributes if name == "id"]
        assert len(ids) == len(set(ids))


def blend(small: SmallRun, *models: str, allow_missing: bool = False) -> None:
    blend_run(Blend(small.run, small.sample, small.submission, models, allow_missing))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A blended run with an image and a driver of strange names, features, learning curves, and photographs."""
    small = make_small(tmp_path_factory.mktemp("report"))
    first = small.folds["img"][0]
    strange = small.folds["subject"].replace("p000", STRANGE_DRIVER)
    small.folds = small.folds.assign(subject=strange).replace({"img": {first: STRANGE_IMAGE}})
    small.folds.to_csv(small.run / "folds.csv", index=False)
    random = np.random.default_rng(0)
    for model in ("vgg16", "resnet50", "inception_v3"):
        for fold in range(FOLDS):
            folder = small.run / model / f"fold_{fold}"
            table = pd.read_csv(folder / "out_of_fold.csv").replace({"img": {first: STRANGE_IMAGE}})
            row = table["img"] == STRANGE_IMAGE
            table.loc[row, [f"c{number}" for number in range(10)]] = [1e-9, *[0.0] * 8, 1 - 1e-9]
            table.to_csv(folder / "out_of_fold.csv", index=False)
            (folder / "history.csv").write_text(HISTORY)
            if model == "vgg16":
                np.save(folder / "out_of_fold_features.npy", random.normal(size=(len(table), 6)).astype(np.float16))
                np.save(folder / "test_features.npy", random.normal(size=(45, 6)).astype(np.float16))
            results = {"seconds": 90.0, "log_loss": 1.0}
            finish_fold(small.run, model, fold, results=results)
    for image, classname in zip(small.folds["img"], small.folds["classname"], strict=True):
        folder = small.data / "imgs" / "train" / classname
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), "navy").save(folder / image, "JPEG")
    row = {"model": "vgg16", "fold": "1", "seconds": 12.3, "ended": "lost", "estimate": 9.0, "on": "1 x CPU, 1 cores"}
    (small.run / "durations.json").write_text(json.dumps([row, row | {"fold": "2", "ended": "finished"}]))
    blend(small)
    return small


@pytest.fixture
def copy(finished: SmallRun, tmp_path: Path) -> SmallRun:
    """The same run, to change."""
    return finished.moved(tmp_path / "copy")


def report(small: SmallRun, photographs: bool = True, labels: Path | None = None) -> Page:
    path = write_report(Request(RunFolder(small.run), small.data, labels, photographs))
    assert path == small.run / "report.html"
    assert path.stat().st_size < 5e6
    page = Page(path)
    page.require_self_contained()
    assert page.sections == SECTIONS
    return page


def test_a_report_has_all_parts_and_needs_nothing_else(finished: SmallRun) -> None:
    page = report(finished)
    record = json.loads((finished.run / "ensemble" / "blend.json").read_text())
    sha256 = record["outputs"][str(finished.submission.resolve())]["sha256"]
    for words in (
        *(f"{record['nested_log_loss']:.3f}", sha256, str(finished.submission), record["method"]),
        *("No driver is in two folds: 9 drivers and 180 images in 3 folds", "this is no claim to a place"),
        *("A random split shows no leak on these features", "Nothing: every model has finished every fold"),
        *("vgg16: held-out log loss 2.100 at best, in 2 epochs", "may not be passed on", "--no-photographs"),
        *("1.5", "python -m ensemble.blend --run trial", STRANGE_IMAGE, STRANGE_DRIVER),
        "vgg16, fold 1: was on a machine that was lost after 12 s",
    ):
        assert words in page.text
    assert "on the labelled test set" not in page.text
    assert "vgg16, fold 2: was" not in page.text
    assert page.tags.count("img") == 24
    assert page.tags.count("svg") == 11
    assert all(value for tag, name, value in page.attributes if (tag, name) in (("img", "alt"), ("svg", "aria-label")))
    matrix = [value for tag, name, value in page.attributes if tag == "td" and name == "tabindex"]
    assert sorted(matrix) == ["-1"] * 99 + ["0"]


def test_labels_add_the_score(copy: SmallRun) -> None:
    page = report(copy, labels=copy.labels)
    assert "Log loss on the labelled test set" in page.text


def test_an_unchanged_report_is_not_written_again_and_no_photographs_leaves_them_out(copy: SmallRun) -> None:
    path = copy.run / "report.html"
    report(copy)
    before = path.stat().st_mtime_ns
    report(copy)
    assert path.stat().st_mtime_ns == before
    page = report(copy, photographs=False)
    assert "img" not in page.tags
    assert "file names stand for them" in page.text
    assert STRANGE_IMAGE in page.text
    rendered = copy.data.rename(copy.root / "demo_seed0_v3")
    write_report(Request(RunFolder(copy.run), rendered))
    assert "Frames of the demo set, which are rendered." in Page(path).text
    assert "The photographs were not found here" in report(copy).text


def test_a_report_that_fails_does_not_fail_the_run(copy: SmallRun, capsys: pytest.CaptureFixture) -> None:
    (copy.run / "ensemble" / "reliability.csv").write_text("name\nblend\n")
    work = SimpleNamespace(data=copy.data)
    plan: Any = SimpleNamespace(work=work, run=RunFolder(copy.run), labels=None, submission=copy.submission)
    stages.report(plan)
    said = capsys.readouterr()
    assert "warning: report.html was not written" in said.err and "reliability.csv has changed" in said.err
    assert [line.split()[0] for line in said.out.splitlines()] == ["report", "submission"]
    assert "ensemble/report.txt" in said.out
    (copy.run / "ensemble" / "blend.json").unlink()
    told = refusal(here("tools.report", "--run", copy.name, "--runs", copy.run.parent))
    assert "python -m ensemble.blend --run trial --allow-missing" in told


@pytest.mark.parametrize("words", ["--dropout 0.2", "--quick --crop hands --model-name hands", "--epochs 6 --tta 0"])
def test_the_command_that_it_shows_trains_the_same(copy: SmallRun, words: str) -> None:
    run, architecture = RunFolder(copy.run), zoo.find("vgg16")
    parser = model_parser(architecture)
    work = network_of(architecture, parser.parse_args(["--weights", "none", *words.split()]), run, copy.data)
    work.save()
    shown = shlex.split(_command(run, work.model_name)[1])[2:]
    again = network_of(architecture, parser.parse_args(shown), run, copy.data)
    assert (again.recipe, again.augmentation, again.model_name) == (work.recipe, work.augmentation, work.model_name)


def side_by_side(small: SmallRun, folder: Path) -> Path:
    """The page of `tools.compare` of the run and a copy of it."""
    shutil.copytree(small.run, folder / "runs" / "other")
    path = folder / "comparison.html"
    words = [small.run, folder / "runs" / "other", "--out", folder / "table.csv", "--html", path]
    succeeded(here("tools.compare", *words))
    return path


def test_runs_side_by_side_have_the_same_parts(finished: SmallRun, tmp_path: Path) -> None:
    path = side_by_side(finished, tmp_path)
    page = Page(path)
    page.require_self_contained()
    assert page.sections == ["compared", *SECTIONS]
    assert path.stat().st_size < 5e6
    for words in ("trial against other", "other/ensemble", "trial/vgg16", "s a fold"):
        assert words in page.text
    assert page.text.count("Expected log loss on new drivers") == 2
    with pytest.raises(UserError, match="expected at most 6 runs side by side, found 7"):
        write_comparison(tmp_path / "page.html", [Request(RunFolder(finished.run))] * 7, {})


def test_one_model_of_one_fold_without_features(copy: SmallRun) -> None:
    blend(copy, "vgg16")
    assert "python -m ensemble.blend --run trial --data DIR --models vgg16\n" in report(copy).text
    for name in ("resnet50", "inception_v3", "vgg16/fold_1", "vgg16/fold_2"):
        shutil.rmtree(copy.run / name)
    for name in ("out_of_fold_features.npy", "test_features.npy", "history.csv"):
        (copy.run / "vgg16" / "fold_0" / name).unlink()
    finish_fold(copy.run, "vgg16", 0)
    blend(copy, allow_missing=True)
    page = report(copy)
    for words in ("vgg16: fold 1, 2 not finished", "Not measured", "No model of this run trains in epochs", "1 model,"):
        assert words in page.text
    assert "python -m ensemble.blend --run trial --data DIR --allow-missing" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_in_a_real_browser(finished: SmallRun, tmp_path: Path, kind: str) -> None:
    playwright: Callable = pytest.importorskip("playwright.sync_api").sync_playwright
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or pytest.skip("needs chromium")
    path = write_report(Request(RunFolder(finished.run), finished.data))
    path = path if kind == "report" else side_by_side(finished, tmp_path)
    with playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        backgrounds = set()
        for scheme in ("light", "dark"):
            for width in (390, 1440):
                context = chromium.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
                )
                page, said, asked = context.new_page(), [], []
                page.on("console", lambda message, said=said: said.append(message.text))
                page.on("pageerror", lambda error, said=said: said.append(str(error)))
                page.on("request", lambda request, asked=asked: asked.append(request.url[:60]))
                page.goto(path.as_uri())
                assert said == []
                assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()[:60]]
                assert page.evaluate("document.documentElement.scrollWidth") == width
                assert all(page.locator(f"#{name}").is_visible() for name in SECTIONS)
                assert page.evaluate(WIDER_THAN_THE_PAGE) == 0
                backgrounds.add((scheme, page.evaluate("getComputedStyle(document.body).backgroundColor")))
                cell = "document.activeElement.closest('.matrix td') !== null"
                presses = 0
                while not page.evaluate(cell):
                    page.keyboard.press("Tab")
                    presses += 1
                    assert presses < 60
                page.keyboard.press("ArrowDown")
                page.keyboard.press("ArrowRight")
                assert page.locator(".readout").first.inner_text().startswith("c1 texting - right, recognised:")
                context.close()
        assert len({colour for _, colour in backgrounds}) == 2
        chromium.close()
