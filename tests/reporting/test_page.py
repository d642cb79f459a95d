"""The report shows all results, fits any window, and executes nothing in an answer."""

import io
import json
import re
import shutil
import struct
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from markupsafe import escape
from rich.console import Console

from lightning_rlhf.reporting import page, results
from lightning_rlhf.reporting.palette import BADGES, DARK, LIGHT
from lightning_rlhf.reporting.results import Answers, Curve, ReportColumn, Results

HOSTILE = "<script>alert('x')</script> & \"quoted\" [bold]not markup[/bold] $x$ \u05e9"
HOSTILE += " \x1b[31m \x00 \ud800"  # a terminal escape, a NUL, half a surrogate pair
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for found in map(shutil.which, BROWSERS) if found), None)
WIDTHS = (375, 720, 1280)
RESULTS = Results(
    title="Three stages, $5 and $6",
    subtitle="A <small> model",
    stages=[
        ReportColumn("SFT", 21.4, {"fully_good": 0.353, "eos_share": 0.99, "kl": 0.0}),
        ReportColumn("reward", 9.25, {"reward_accuracy": 0.913}),
        ReportColumn("DPO", 131.0, {"fully_good": 0.724, "eos_share": 0.998, "kl": 0.34567}),
    ],
    answers=[
        Answers("Greet me.", {"SFT": "hello hello", "DPO": HOSTILE}, {"SFT": 0.25, "DPO": 1.0}),
        Answers("W" * 300, {"SFT": "a\nb", "DPO": "x" * 300}, {}),
    ],
    curves=[
        Curve("SFT", "train/loss", [0, 10, 20], [4.0, 2.0, float("inf")]),
        Curve("reward", "val/accuracy", [5], [0.5]),
        Curve("DPO", "empty", [], []),
    ],
    facts={"model": "353k parameters", "seed": "0"},
)


class Page(HTMLParser):
    """The tags of a page and the text between them, without its style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data + "\n" if self.tags[-1:] and self.tags[-1][0] != "style" else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "new" / "folder"
    assert page.write_report(RESULTS, folder) == (folder / "report.png", folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def png_size(data: bytes) -> tuple[int, int]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize(
    ("value", "share", "shown"),
    [
        (0.353, True, "35.3%"),
        (1.0, True, "100.0%"),
        (None, True, "–"),
        (None, False, "–"),
        (float("nan"), True, "nan"),
        (0.0, False, "0"),
        (-0.0, False, "0"),
        (0.34567, False, "0.346"),
        (-12.345, False, "-12.3"),
        (999.9, False, "1,000"),
        (12345, False, "12,300"),
        (3e9, False, "3e+09"),
    ],
)
def test_a_figure_is_a_percentage_or_three_digits(value, share, shown):
    assert results.format_figure(value, share) == shown


@pytest.mark.parametrize(
    ("metric", "values", "is_share"),
    [
        ("fully_good", [0.3], True),
        ("win_rate", [0.3, float("nan")], True),
        ("fully_good", [0.3, 1.2], False),
        ("kl", [0.1], False),
        ("train/loss", [0.1], False),
        ("rewards/margins", [0.1], False),
        ("mean_reward", [0.1], False),
        ("reward_accuracy", [0.1], True),
        ("oracle_score", [0.0], True),
        ("lr", [1e-4], False),
    ],
)
def test_what_is_a_share(metric, values, is_share):
    assert results.is_share(metric, values) is is_share


def test_rows_hold_every_stage_and_a_dash_where_there_is_nothing():
    assert RESULTS.rows() == [
        ["fully good", "35.3%", "–", "72.4%"],
        ["eos share", "99.0%", "–", "99.8%"],
        ["kl", "0", "–", "0.346"],
        ["reward accuracy", "–", "91.3%", "–"],
        ["time", "21.4 s", "9.25 s", "2.18 min"],
    ]


def test_the_page_shows_every_figure_and_every_text(html):
    words = Page(html).words
    cells = [cell for row in RESULTS.rows() for cell in row]
    for text in [
        *cells,
        "25%",
        "100%",
        "353k parameters",
        "seed",
        "hello hello",
        "A <small> model",
    ]:
        assert text in words
    assert html.count("<td dir=auto>–") == 5  # three that reward lacks, two it alone has


def test_headlines_say_where_a_share_began_and_ended(html):
    assert "fully good<strong><span>35.3% → </span>72.4%</strong>" in html
    assert "reward accuracy<strong>91.3%</strong>" in html  # one stage has it: no arrow


def test_an_answer_is_text_and_never_markup(html):
    assert "<script" not in html
    shown = HOSTILE.translate({0x1B: "\ufffd", 0x00: "\ufffd", 0xD800: "\ufffd"})
    assert escape(shown) in html
    assert shown in Page(html).words


def test_the_page_needs_nothing_but_itself(html):
    tags = Page(html).tags
    sources = [v for _, a in tags for k, v in a.items() if k in ("src", "srcset", "href", "action")]
    assert len(sources) == 4  # light and dark, wide and narrow
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    bare = re.sub(r"data:image/png;base64,[\w+/=]+", "", html)
    assert not re.search(r"http|url\(|@import|<script|<link|\son\w+=", bare)
    widths = [png_size(b64decode(source.partition(",")[2]))[0] for source in sources]
    assert widths[0] == widths[2] < widths[1] / 2 and widths[1] == widths[3]


def test_results_json_is_the_results(folder):
    fields = json.loads((folder / "results.json").read_text())
    rows = {"stages": ReportColumn, "answers": Answers, "curves": Curve}
    lists = {name: [row(**x) for x in fields[name]] for name, row in rows.items()}
    assert Results(**fields | lists) == RESULTS


def test_results_json_takes_the_scalars_of_numpy_and_torch(tmp_path):
    stage = ReportColumn("SFT", 1.0, {"good": np.float32(0.5), "eos": torch.tensor(0.25)})
    page.write_report(RESULTS._replace(stages=[stage], answers=[], curves=[]), tmp_path)
    (fields,) = json.loads((tmp_path / "results.json").read_text())["stages"]
    assert fields["metrics"] == {"good": 0.5, "eos": 0.25}
    assert [row[1] for row in RESULTS._replace(stages=[stage]).rows()] == ["50.0%", "25.0%", "1 s"]


def test_the_picture_is_a_png_of_a_sensible_size(folder, tmp_path):
    width, height = png_size((folder / "report.png").read_bytes())
    assert 1200 < width < 2400 and 400 < height < width
    bare = RESULTS._replace(stages=[ReportColumn("SFT", 1.0, {})], curves=[], answers=[])
    assert png_size(page.draw(bare, tmp_path / "bare.png").read_bytes())[0] == width
    assert "before and after" not in page.render_page(bare)


def test_drawing_needs_neither_torch_nor_pyplot():
    code = f"""
import sys, types
package = sys.modules["lightning_rlhf"] = types.ModuleType("lightning_rlhf")
package.__path__ = [{str(Path(page.__file__).parents[1])!r}]  # without its root, which imports all
from lightning_rlhf.reporting.palette import LIGHT
from lightning_rlhf.reporting.picture import draw_png
from lightning_rlhf.reporting.results import Results
draw_png(Results("", "", [], [], [], {{}}), LIGHT, narrow=True)
assert not {{"torch", "matplotlib.pyplot"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_answers_of_an_unknown_stage_are_refused(tmp_path):
    wrong = RESULTS._replace(answers=[Answers("?", {"sft": "typo"}, {})])
    with pytest.raises(ValueError, match="'sft'"):
        page.write_report(wrong, tmp_path)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_what_wcag_asks_for():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for ink, paper in BADGES:
        assert contrast(ink, paper) >= 4.5  # AA, text
    for theme in (LIGHT, DARK):
        assert contrast(theme.ink, theme.paper) >= 7  # AAA, text
        assert contrast(theme.muted, theme.paper) >= 4.5
        for color in results._COLORS:
            assert contrast(color, theme.paper) >= 3  # AA, graphics


def test_a_badge_goes_from_red_to_green():
    badges = [page.badge(score) for score in (0.0, 0.499, 0.5, 0.799, 0.8, 1.0)]
    assert [badge[1:] for badge in badges] == [b for b in BADGES for _ in range(2)]
    assert badges[-1][0].strip() == "100%" and page.badge(None) == ("", "", "")


def test_the_terminal_shows_the_same_and_obeys_no_answer():
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system="truecolor")
    told = {"SFT": "hello", "DPO": HOSTILE.replace("\ud800", "")}
    answers = [RESULTS.answers[0]._replace(by_stage=told)]
    page.print_results(RESULTS._replace(answers=answers), console)
    printed = console.file.getvalue()
    assert "\x1b[31m \x00" not in printed and "\ufffd[31m" in printed
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed)
    for text in [*(cell for row in RESULTS.rows() for cell in row), "25%", "[bold]not", "hello"]:
        assert text in plain


def crowded() -> Results:
    names = ("SFT", "reward", "DPO", "PPO", "constitutional", "a name far too long for any column")
    metrics = {"fully_good": 1.0, "a_metric_whose_name_is_long": 1.0, "kl": -12345.0}
    answers = [Answers("W" * 300, dict.fromkeys(names, HOSTILE + "x" * 300), {"SFT": 1.0})]
    facts = {f"fact {i}" * 9: "f" * 99 for i in range(3)}
    stages = [ReportColumn(name, 5999.0, metrics) for name in names]
    return Results("T" * 200, "s" * 200, stages, answers, RESULTS.curves, facts)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("results", [RESULTS, crowded()], ids=["usual", "crowded"])
def test_no_window_scrolls_sideways(results, tmp_path):
    html = page.write_report(results, tmp_path).html.read_text(encoding="utf-8")
    frames = [
        f'<iframe style="border:0;width:{w}px" srcdoc="{escape(html)}"></iframe>' for w in WIDTHS
    ]
    script = """<script>onload = () => {
      const pages = [...document.querySelectorAll("iframe")].map(frame => frame.contentDocument)
      const rights = page => [...page.body.querySelectorAll("*")].map(
        element => Math.ceil(element.getBoundingClientRect().right))
      document.body.textContent = pages.map(page => ["W", page.documentElement.scrollWidth,
        Math.max(...rights(page)), page.images[0].naturalWidth, page.compatMode].join(" "))
    }</script>"""
    probe = tmp_path / "probe.html"
    probe.write_text("<body>" + "".join(frames) + script, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --dump-dom"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={tmp_path}/profile", probe.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    seen = re.findall(r"W (\d+) (\d+) (\d+) (\w+)", dom)
    assert len(seen) == len(WIDTHS)
    for width, (scroll, right, picture, mode) in zip(WIDTHS, seen, strict=True):
        assert int(scroll) <= width and int(right) <= width and mode == "CSS1Compat", width
        assert (int(picture) < 1000) == (width <= 700)  # a phone gets the picture drawn for it
