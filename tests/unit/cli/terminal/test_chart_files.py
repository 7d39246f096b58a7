"""Charts in files: whatever names hold, they are drawn as they are, and nothing else is."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import warnings
from xml.etree import ElementTree

import pytest

from hpctrack.cli.terminal import chart, chart_files
from hpctrack.store.metrics.curves import Bucket, Curve
from tests.support.paths import ROOT

pytest.importorskip("matplotlib")
pytest.importorskip("plotly")

NAMES = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "--><script>x</script>", "]]>",
    "<!--<script>", '<a href="http://x">here</a>', "<b>bold</b><br>two", "&lt;b&gt;", r"$\frac{$",
    r"$\undefined{x}$", r"\$x$", "$$", "_hidden", "%{x}", r"\input{/etc/passwd}",
    "\U0001f600漢字", "long" * 1000,
]  # fmt: skip


def one_chart(name, *values):
    buckets = tuple(Bucket(float(x), 1, value, value) for x, value in enumerate(values or (1.0, 2.0)))
    drawn = Curve(name, "step", 2, 0, 1.0, 2.0, 1.0, 2.0, buckets)
    return chart.Chart(name, (chart.Line(f"r1 {name}", drawn), chart.Line(f"r2 {name}", drawn)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_images_hold_no_formulas_scripts_or_links(tmp_path, suffix, name):
    path = tmp_path / f"x.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart_files.write(path, [one_chart(name), one_chart(name)._replace(lines=one_chart(name).lines[:1])])
    if suffix == "svg":
        text = path.read_text()
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()}
        assert not tags & {"script", "a", "foreignObject", "image", "b"}
        # A comment beside the letters tells what they are.
        shown = name if len(name) < 60 else name[:59] + "…"
        assert f"<!-- {shown.replace('--', '- -')}" in html.unescape(text)


@pytest.mark.parametrize("name", NAMES)
def test_pages_hold_no_tags(tmp_path, name):
    path = tmp_path / "x.html"
    chart_files.write(path, [one_chart(name)])
    text = path.read_text()
    drawn = text[text.rindex("Plotly.newPlot") :]
    assert re.findall("<[^>]*>", drawn) == re.findall("<[^>]*>", "</script></div></body></html>")
    named = json.loads(re.search(r'"name":("(?:[^"\\]|\\.)*")', drawn)[1])
    assert "<" not in named and ">" not in named
    if len(name) < 60:
        assert named.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == f"r1 {name}: {name}"


@pytest.mark.parametrize(
    "values", [(1.7e308, -1.7e308), (1.7e308, 1.7e308), (5e-324, 0.0), (2.0**63, 2.0**63)]
)
def test_the_greatest_and_smallest_values_are_drawn(tmp_path, capfd, values):
    drawn = one_chart("loss", *values)
    for suffix in ("svg", "html"):
        chart_files.write(tmp_path / f"x.{suffix}", [drawn])
    assert len(chart.draw(drawn, 80)) > 10
    assert capfd.readouterr() == ("", "")


SETTINGS = "text.usetex: True\ntext.parse_math: True\nfont.family: nonsense\nlines.linewidth: 99\n"


@pytest.mark.parametrize("kind", ["settings", "pipe"])
def test_a_folder_tells_nothing_about_how_to_draw(tmp_path, kind):
    """The matplotlibrc of the current folder is believed before all others: it can ask for TeX."""
    if kind == "pipe":
        os.mkfifo(tmp_path / "matplotlibrc")
    else:
        (tmp_path / "matplotlibrc").write_text(SETTINGS)
    code = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from hpctrack.cli.terminal import chart_files\n"
        "path = pathlib.Path('x.svg'); chart_files.check(path)\n"
        "from tests.unit.cli.terminal.test_chart_files import one_chart\n"
        "chart_files.write(path, [one_chart('$x$')])"
    )
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], cwd=tmp_path, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "stroke-width: 99" not in (tmp_path / "x.svg").read_text()
    assert sorted(os.listdir(tmp_path)) == ["matplotlibrc", "x.svg"]


def test_the_users_own_settings_serve_but_for_tex(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    chart_files.write(tmp_path / "x.svg", [one_chart("$x$")])
    assert "<!-- $x$ -->" in (tmp_path / "x.svg").read_text()


def lines_of(count):
    curve = one_chart("loss").lines[0].curve
    return chart.Chart("loss", tuple(chart.Line(f"r{number} 14 train", curve) for number in range(count)))


@pytest.mark.parametrize("count", [2, 7, 40])
def test_legends_hide_nothing_and_colours_differ(count):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = chart_files._draw([lines_of(count), lines_of(2)])
    FigureCanvasAgg(figure).draw()
    drawn = [axes.get_tightbbox() for axes in figure.axes if axes.lines]
    legends = [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
    assert len(drawn) == len(legends) == 2
    assert not any(legend.overlaps(box) for legend in legends for box in drawn)
    assert not legends[0].overlaps(legends[1])
    assert all(legend.x0 >= 0 and legend.y0 >= 0 for legend in legends)
    assert len({line.get_color() for line in figure.axes[0].lines}) == count
    assert all(box.height > 300 for box in drawn)


def test_lines_in_terminals_and_pages_differ_too():
    assert len({chart.colour_of(number) for number in range(500)}) == 500
    legend = chart.draw(lines_of(40), 80)[-40:]
    assert len({line.split()[0] for line in legend}) == 40
    coloured = chart.draw(lines_of(40), 80, colour=True)[-40:]
    assert len({line.partition("m")[0] for line in coloured}) == 40
