"""`ssdiff eval report`: one file that needs nothing else, whatever the run holds; looked at in a browser."""

import json
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from conftest import CPU
from PIL import Image

import ssdiff as package
from ssdiff.cli import run
from ssdiff.errors import CheckpointError, OutputError, ResourceError, UsageError
from ssdiff.reporting import html

HOSTILE = "<script>alert(1)</script><img src=http://x.test/a.png onerror='x'>\"&\x00\ud800"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EMPTY = ("meta", "link", "img")


class Page(HTMLParser):
    """What a page holds; fails on tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.images, self.references = [], [], "", [], []
        self.ids, self.rows = set(), []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids.add(values.get("id"))
        self.references += [values[name] for name in ("src", "href", "srcset", "action") if name in values]
        assert not any(name.startswith("on") for name in values)
        if tag == "img":
            self.images.append(values)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def row(self, name):
        [found] = [row for row in self.rows if row[0] == name]
        return found[1:]


def check_alone(page):
    """Nothing outside the page is named, and everything in it can be read."""
    assert not {"script", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for reference in page.references:
        assert reference.startswith("data:") or reference.removeprefix("#") in page.ids, reference
    for image in page.images:
        assert image["alt"].strip() and image["src"].startswith("data:image/png;base64,")
        assert int(image["width"]) > 0 and int(image["height"]) > 0


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory, run_folder):
    """A run whose files hold what nobody wants, and results of evaluations."""
    folder = tmp_path_factory.mktemp("report") / "<b>&amp; run"
    shutil.copytree(run_folder, folder)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 13, "loss": 0.5, "loss_by_reso\n')
        stream.write('{"step": "<i>", "loss": 1}\n')
        stream.write('{"step": 14, "loss": "<i>", "loss_by_resolution": {"$\\\\frac$": 1, "16": 1e999}}\n')
        stream.write("\n[1, 2]\n")
    (folder / "eval").mkdir(exist_ok=True)
    good = {"name": HOSTILE[:-2], "value": 12.345678, "provenance": {"extractor": "<u>", "n": 2048}}
    (folder / "eval" / "fid.json").write_text(json.dumps({"results": [good]}))
    (folder / "eval" / "broken.json").write_text("{")
    (folder / "eval" / "<i>.json").write_text("[]")
    return folder


@pytest.fixture(scope="module")
def written(spoiled, tmp_path_factory):
    """The report of that run."""
    out = tmp_path_factory.mktemp("out") / "report.html"
    assert run(["eval", "report", str(spoiled), "--out", str(out), "--samples", "6", *CPU, "-q"]) == 0
    return out


def test_a_report_needs_nothing_else(written):
    page = Page(written.read_text(encoding="utf-8"))
    check_alone(page)
    assert "<b>&amp; run" in page.text
    titles = ("Run", "Samples", "Trajectory", "Loss", "Cost", "Distances and image quality", "Settings")
    assert [link for link in page.references if link.startswith("#")] == [f"#part-{i}" for i in range(7)]
    assert all(title in page.text for title in titles)
    assert page.open == [] and page.tags.count("table") == page.tags.count("thead") >= 5


def test_what_a_report_says(written):
    page = Page(written.read_text(encoding="utf-8"))
    assert page.row("Step") == ["12 of 12, ema weights"]
    assert page.row("State") == ["finished"]
    assert page.row("model.width")[0] == "16"
    assert page.row("16 to 16 px")[0].endswith(" M")
    assert "3 damaged lines of metrics.jsonl were skipped" in page.text
    alts = [image["alt"] for image in page.images]
    assert "6 samples of tiny" in alts
    assert any("8 pixels a side" in alt for alt in alts) and any("16 pixels a side" in alt for alt in alts)


def test_results_of_evaluations(written):
    page = Page(written.read_text(encoding="utf-8"))
    [row] = [row for row in page.rows if row[-1] == "fid.json" and len(row) == 3]
    assert row[0].startswith("<script>alert(1)</script>") and row[1] == "12.3457"
    assert page.row("provenance.extractor") == ["<u>"] and page.row("provenance.n") == ["2048"]
    assert "could be read: <i>.json, broken.json" in page.text


def test_everything_is_escaped():
    x = torch.zeros(1, 2, 2)
    picture = html.magnified(x, 3, HOSTILE, HOSTILE)
    table = html.Table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], [1])
    folded = html.Table(HOSTILE, [HOSTILE], [[HOSTILE]], folded=True)
    blocks = [html.Text(f"`{HOSTILE}`"), table, folded, picture, html.Strip([picture])]
    text = html.page(HOSTILE, HOSTILE, [html.Section(HOSTILE, blocks)]).decode()
    page = Page(text)
    check_alone(page)
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert page.images[0]["alt"] == shown
    assert page.rows == [[shown, shown], [shown, shown], [shown], [shown]]
    assert page.tags.count("code") == 1 and "\x00" not in text
    assert page.images[0]["width"] == "6"


def test_the_parser_finds_faults():
    for text in ('<img src="http://x.test/a.png" alt="a">', "<script></script>", '<a href="#no">a</a>'):
        with pytest.raises(AssertionError):
            check_alone(Page(text))
    for text in ("<p><b>a</p></b>", "<p>", '<p onclick="x">a</p>'):
        with pytest.raises(AssertionError):
            Page(text)


def test_a_run_without_records_or_drawing(result, run_folder, tmp_path):
    out, folder = tmp_path / "report.html", tmp_path / "run"
    shutil.copytree(run_folder, folder)
    (folder / "metrics.jsonl").unlink()
    (folder / "status.json").write_text("{")
    values = result("eval", "report", folder, "--out", out, "--samples", 0, *CPU)
    assert (values["samples"], values["damaged_lines"], values["results"]) == (0, 0, 0)
    assert values["bytes"] == out.stat().st_size and values["step"] == 12
    page = Page(out.read_text(encoding="utf-8"))
    assert "Grid of the training at step 12" in [image["alt"] for image in page.images]
    assert page.row("State") == ["unknown"] and page.row("Images seen") == ["unknown"]
    assert "None yet." in page.text and "recorded no loss yet" in page.text


def test_a_model_that_restores(result, cold_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ssdiff.reporting.run_report._SECONDS", 0.5)
    out = tmp_path / "report.html"
    values = result("eval", "report", cold_folder, "--out", out, "--timing", *CPU)
    assert values["samples"] == 0
    page = Page(out.read_text(encoding="utf-8"))
    check_alone(page)
    assert "cannot sample unconditionally" in page.text and "clean, degraded, restored" in page.text
    assert "is no preset that ships with ssdiff" in page.text
    assert float(page.row("16 to 16 px")[4]) > 0 and "matrix peak" in page.text
    assert [row[0] for row in page.rows if row[0] in ("total", "16 px")] == ["total"]


def test_faults(ssdiff, run_folder, tmp_path):
    empty, bare, taken = tmp_path / "empty", tmp_path / "bare", tmp_path / "report.html"
    empty.mkdir()
    bare.mkdir()
    shutil.copy(run_folder / "preset.toml", bare)
    taken.write_text("mine")
    new = tmp_path / "new.html"
    for arguments, expected, word in (
        ((empty, "--out", new), 4, "no preset.toml"),
        ((tmp_path / "nothing", "--out", new), 4, "does not exist"),
        ((bare, "--out", new), 4, "none was saved"),
        ((run_folder, "--out", taken), 2, "--overwrite"),
        ((run_folder, "--out", tmp_path / "report.pdf"), 2, ".html"),
        ((run_folder, "--out", new, "--samples", "-1"), 2, "samples must be at least 0"),
        ((run_folder, "--out", new, "--steps", "21"), 2, "20"),
    ):
        code, out, err = ssdiff("eval", "report", *arguments, *CPU)
        assert (code, out) == (expected, "") and word in err, arguments
    assert taken.read_text() == "mine" and not new.exists()


def test_the_function_writes_a_report(run_folder, tmp_path):
    told = []
    out = tmp_path / "report.html"
    found = package.report(run_folder, out, samples=2, device="cpu", progress=lambda *what: told.append(what))
    assert found == out and {stage for stage, _, _ in told} == {"sampling"} and told[-1][1:] == (2, 2)
    page = Page(out.read_text(encoding="utf-8"))
    check_alone(page)
    assert "2 samples of tiny" in [image["alt"] for image in page.images]
    with pytest.raises(OutputError, match="exists"):
        package.report(run_folder, out, device="cpu")


@pytest.mark.parametrize(
    ("run", "change", "error", "words"),
    [
        ("nothing", {}, CheckpointError, "does not exist; name a folder that `ssdiff train` wrote"),
        (".", {}, CheckpointError, "is no run folder: it has no preset.toml"),
        (None, {"samples": -1}, UsageError, "samples must be at least 0, not -1"),
        (None, {"steps": 21}, UsageError, "20"),
        (None, {"weights": "best"}, UsageError, "ema"),
        (None, {"precision": "fp8"}, UsageError, "fp32"),
        (None, {"device": "tpu"}, ResourceError, "usable here: .*cpu"),
    ],
    ids=range(7),
)
def test_refusals_of_the_function(run_folder, tmp_path, monkeypatch, run, change, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        package.report(run or run_folder, "new.html", **{"device": "cpu"} | change)
    assert not (tmp_path / "new.html").exists()


def look(page, folder):
    """(screenshot, what the browser complained about)."""
    picture = folder / "screen.png"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1000,1600", f"--screenshot={picture}"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert picture.is_file(), done.stderr
    return Image.open(picture).convert("RGB"), [
        line for line in done.stderr.splitlines() if "CONSOLE" in line
    ]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_in_a_browser(written, tmp_path):
    screen, complaints = look(written, tmp_path)
    assert screen.size == (1000, 1600) and complaints == []
    colours = screen.getcolors(1 << 24)
    assert len(colours) > 500, "samples are colourful"
    most = max(colours)[1]
    assert most in ((255, 255, 255), (20, 23, 27)), "the style was applied"
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_bytes(
        written.read_bytes().replace(b"</main>", b'<img src="http://127.0.0.1:9/a.png"></main>')
    )
    assert look(spoiled, tmp_path)[1], "a page that loads something is noticed"
