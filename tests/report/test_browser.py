"""The page in a real Chromium: sorting, filtering, axes, pointer and keyboard, without an error."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from leanconv.report import page

from .sample import histories, row, summary

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
LISTEN = "<script>window.errors = []; addEventListener('error', (e) => errors.push(e.message)); const loud = console.error; console.error = (...a) => { errors.push(a.join(' ')); loud(...a); };</script>"  # noqa: E501


def run(text: str, script: str, folder: Path, size: str = "1200,900") -> Any:
    """What `script`, which gives a value, finds on the page; errors of the page fail the test."""
    ending = (
        f"<script>addEventListener('load', async () => {{ const found = await (async () => {{ {script} }})();"
        "const out = document.createElement('pre'); out.id = 'found';"
        "out.textContent = JSON.stringify({ found, errors }); document.body.append(out); });</script>"
    )
    path = folder / "page.html"
    path.write_text(text.replace("<head>", "<head>" + LISTEN, 1).replace("</body>", ending + "</body>"))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={size}",
        "--virtual-time-budget=3000",
    ]
    done = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=60)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    value = json.loads(html.unescape(match[1]))
    assert value["errors"] == []
    return value["found"]


ROWS = [
    row("dense", (91.0, 91.4)),
    row("small", (89.0,), params=100_000, macs=9_000_000, latency_ms=1.5),
    row("middle", (90.0,), params=150_000, macs=20_000_000, latency_ms=2.5),
    row("worse", (88.0,), params=200_000, macs=30_000_000, latency_ms=3.0),
    row("untested", (), params=50_000, test_top1_pct=None, test_top1_pct_std=None, latency_ms=None),
]
NAMES = "[...document.querySelectorAll('#rows tbody tr')].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
POINTS = "[...document.querySelectorAll('#plot .point')].map(p => p.getAttribute('aria-label').split(':')[0])"


@pytest.fixture(scope="module")
def text() -> str:
    return page.html(summary(ROWS), histories())


def test_sorting(text: str, tmp_path: Path):
    found = run(text, f"""
        const heads = [...document.querySelectorAll('#rows th')], click = (i) => heads[i].querySelector('button').click();
        const accuracy = heads.findIndex(h => h.textContent.startsWith('Test'));
        const seen = []; const look = () => seen.push([{NAMES}, heads.map(h => h.getAttribute('aria-sort'))]);
        click(1); look(); click(1); look(); click(accuracy); look(); click(0); look();
        return {{ seen, accuracy }};""", tmp_path)  # fmt: skip
    (up, sort_up), (down, sort_down), (by_accuracy, sorts), (by_name, _) = found["seen"]
    assert up == ["untested", "small", "middle", "worse", "dense"] and down == up[::-1]
    assert sort_up[1] == "ascending" and sort_down[1] == "descending"
    assert by_accuracy == ["dense", "middle", "small", "worse", "untested"], "the best first, what is missing last"
    assert [s for s in sorts if s] == ["descending"] and by_name == sorted(by_name)


def test_filtering_reaches_the_plot(text: str, tmp_path: Path):
    found = run(text, f"""
        const filter = document.getElementById('filter'), seen = [];
        for (const word of ['', 'd', 'nothing at all']) {{
          filter.value = word; filter.dispatchEvent(new Event('input'));
          const said = ['shown', 'plot'].map(id => document.getElementById(id).textContent);
          seen.push([{NAMES}, {POINTS}, ...said]);
        }}
        return seen;""", tmp_path)  # fmt: skip
    assert found[0][1] == ["dense", "small", "middle", "worse"], "one has no accuracy"
    assert found[1][0] == ["dense", "middle", "untested"] and found[1][1] == ["dense", "middle"]
    assert found[1][2] == "3 of 5 shown" and "The filter leaves no row" in found[2][3]


def test_axes_and_the_pareto_front(text: str, tmp_path: Path):
    found = run(text, """
        const x = document.getElementById('plot-x'), seen = [];
        const front = () => [...document.querySelectorAll('#plot .point')].map(p => p.getAttribute('aria-label'))
          .filter(l => l.endsWith('Pareto front')).map(l => l.split(':')[0]);
        const options = [...x.options].map(o => o.textContent);
        seen.push(front());
        x.value = options.findIndex(o => o.startsWith('Latency')); x.dispatchEvent(new Event('change'));
        seen.push(front());
        const label = document.querySelector('#plot svg').getAttribute('aria-label');
        return { seen, options, label };""", tmp_path)  # fmt: skip
    assert set(found["seen"][0]) == {"dense", "small", "middle"}
    assert set(found["seen"][1]) == {"dense", "small"}, "middle is slower and less accurate than dense"
    assert found["label"] == "Test top-1 % against Latency, ms" and len(found["options"]) == 7


def test_rows_and_points_show_each_other(text: str, tmp_path: Path):
    found = run(text, """
        const rows = [...document.querySelectorAll('#rows tbody tr')], points = [...document.querySelectorAll('#plot .point')];
        const has = (name) => [rows.map(r => r.classList.contains(name)), points.map(p => p.classList.contains(name))];
        const seen = {};
        rows[1].dispatchEvent(new Event('mouseenter')); seen.hover = has('hot');
        rows[1].dispatchEvent(new Event('mouseleave')); seen.left = has('hot');
        points[2].dispatchEvent(new Event('mouseenter')); seen.point = has('hot');
        points[2].dispatchEvent(new Event('mouseleave'));
        rows[3].focus(); seen.focus = has('hot');
        rows[3].dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true })); seen.pinned = has('pinned');
        points[0].focus(); points[0].dispatchEvent(new KeyboardEvent('keydown', { key: ' ' })); seen.other = has('pinned');
        points[0].dispatchEvent(new MouseEvent('click')); seen.none = has('pinned');
        seen.reach = [...document.querySelectorAll('button, input, select, [tabindex="0"]')].every(e => e.tabIndex === 0);
        return seen;""", tmp_path)  # fmt: skip
    rows, points = found["hover"]
    assert rows == [False, True, False, False, False] and points == [False, True, False, False]
    assert (
        not any(map(any, found["left"]))
        and found["point"][0][2]
        and found["focus"] == [[i == 3 for i in range(5)], [i == 3 for i in range(4)]]
    )
    assert found["pinned"][0][3] and found["pinned"][1][3]
    assert found["other"][0] == [True] + [False] * 4 and not any(map(any, found["none"]))
    assert found["reach"]


def test_fifty_networks_open_at_once_and_fit_a_phone(tmp_path: Path):
    many = [row("dense", (91.0,))] + [
        row(f"method({i})", (85 + i / 10,), params=1000 * i + 9000, latency_ms=5 - i / 20) for i in range(49)
    ]
    text = page.html(summary(many), {})
    found = run(text, """
        const start = performance.now(); document.getElementById('plot-x').dispatchEvent(new Event('change'));
        const points = [...document.querySelectorAll('#plot .point')];
        return { ms: performance.now() - start, points: points.length, wide: document.documentElement.scrollWidth,
                 view: innerWidth, looks: new Set(points.map(p => p.getAttribute('fill') + p.getAttribute('d'))).size };
        """, tmp_path, "390,844")  # fmt: skip
    assert found["points"] == 50 and found["ms"] < 500
    assert found["wide"] <= max(found["view"], 500), "the table scrolls, the page does not"
    assert found["looks"] >= 28
    assert len(text) < 400_000


def test_what_a_name_holds_cannot_end_the_script(tmp_path: Path):
    evil = row("</script><script>throw Error('out')</script>", (90.0,))
    assert run(page.html(summary([row("dense", (91.0,)), evil]), {}), f"return {NAMES};", tmp_path)[1].startswith(
        "</script>"
    )


def test_rows_are_cards_on_a_phone_and_sort(text: str, tmp_path: Path):
    found = run(text, f"""
        const cell = document.querySelector('#rows tbody tr').cells[6], sort = document.getElementById('sort');
        const label = getComputedStyle(cell, '::before').content, seen = [];
        for (const value of ['6', '']) {{
          sort.value = value; sort.dispatchEvent(new Event('change')); seen.push({NAMES});
        }}
        const head = getComputedStyle(document.querySelector('#rows thead')).display;
        return {{ label, seen, head, sort: getComputedStyle(sort.parentElement).display }};""", tmp_path, "390,844")  # fmt: skip
    assert found["label"] == '"Test top-1 %"' and found["head"] == "none" and found["sort"] != "none"
    assert found["seen"] == [["dense", "middle", "small", "worse", "untested"], [one["method"] for one in ROWS]]


def test_settings_that_differ_are_shown_and_the_rest_is_folded(tmp_path: Path):
    from leanconv.train.config import TrainConfig

    made = summary(ROWS)
    made["settings"]["train"] = TrainConfig().replace(lr=0.3).to_json()
    found = run(page.html(made, {}), """
        const folded = [...document.querySelectorAll('details dt')].map(e => e.textContent);
        return { folded, shown: [...document.querySelectorAll('dt')].map(e => e.textContent).filter(n => !folded.includes(n)) };
        """, tmp_path)  # fmt: skip
    assert "train.lr" in found["shown"] and "train.momentum" in found["folded"] and "train.lr" not in found["folded"]
