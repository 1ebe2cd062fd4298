"""The page in a real browser, from file://: it opens, filters, unfolds, draws curves, in both
themes and on a phone's width.
"""

import asyncio
import itertools
import os
import tempfile
from pathlib import Path

import pytest

from analysis.collect import collect
from analysis.page.html import to_html
from analysis.page.view import View
from tests.support.analysis import browser as chromium
from tests.support.analysis.samples import fake_curve, fake_records, grid_spec, rows_spec

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        chromium.PROGRAM is None, reason="needs chromium (apt-get install chromium)"
    ),
]
SHOTS = Path(os.environ.get("RM_SCREENSHOTS") or tempfile.mkdtemp(prefix="rm-screenshots-"))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two tables: one cell without a record, one that differs, one with a seed still running."""
    views, curves = [], {}
    for spec in (grid_spec(), rows_spec()):
        records = fake_records(
            spec, tuple(trial.id for trial in spec.cells[0].trials) if spec.name == "grid" else ()
        )
        if spec.name == "grid":
            records.loc[
                records["trial_id"].isin({trial.id for trial in spec.cells[2].trials}),
                "best_top1_error",
            ] += 3
            records.loc[records["trial_id"] == spec.cells[3].trials[0].id, "status"] = "RUNNING"
        views.append(View(collect(spec, records), (), "Test error against epoch."))
        curves |= {
            ("top1_error", one): dict(fake_curve(run))
            for one, run in zip(records["trial_id"], records["run_id"], strict=True)
        }
    path = tmp_path_factory.mktemp("page") / "results" / "report" / "index.html"
    path.parent.mkdir(parents=True)
    notes = "# Notes\n\n## A finding\n\nText.\n\nSource: code."
    path.write_text(
        to_html(
            views,
            curves,
            title="What is reproduced",
            folder=path.parent,
            results=path.parents[1],
            notes=notes,
        )
    )
    return path


def drive(steps, tmp_path):
    async def session():
        async with chromium.browser(tmp_path / "profile") as tab:
            await steps(tab)
            assert tab.complaints == []

    SHOTS.mkdir(parents=True, exist_ok=True)
    asyncio.run(session())


SHOWN = "[...document.querySelectorAll('tr.cell')].filter(row => row.offsetParent).length"


def test_the_page_filters_unfolds_and_draws_curves_without_a_complaint(page, tmp_path):
    async def steps(tab):
        await tab.open(page)
        assert await tab.run(SHOWN) == 13
        await tab.run("document.querySelector('[data-filter=differs]').click()")
        assert await tab.run(SHOWN) == 1
        assert await tab.run("[location.hash, document.getElementById('shown').textContent]") == [
            "#show=differs",
            "1 of 13 cells",
        ]
        assert await tab.run("document.getElementById('rows').hidden")
        await tab.run("document.querySelector('[data-filter=running]').click()")
        assert await tab.run(SHOWN) == 1
        await tab.run("document.querySelector('[data-filter=\"\"]').click()")
        assert await tab.run(SHOWN) == 13
        assert await tab.run("document.querySelectorAll('tr.detail').length") == 0
        await tab.run("document.querySelector('#grid--1 .open').focus()")
        await tab.press("Enter", 13)  # by keyboard
        await tab.until("document.querySelectorAll('#grid--1 + tr.detail path.line').length === 3")
        visible = (
            "[...document.querySelectorAll('#grid--1 + tr.detail tbody tr')].filter(row => "
            "row.offsetParent).length"
        )
        assert await tab.run(visible) == 3
        text = await tab.run("document.querySelector('#grid--1 + tr.detail').textContent")
        assert "NVIDIA H200, node-07" in text
        assert (
            await tab.run("document.querySelector('tr.detail a').getAttribute('href')")
            == f"../runs/{grid_spec().cells[1].trials[0].id}/"
        )
        await tab.run("document.querySelector('#grid details:has([data-curves])').open = true")
        await tab.until("document.querySelectorAll('#grid .charts svg').length === 2")
        lengths = await tab.run(
            "[...document.querySelectorAll('#grid .charts path.line')].map(path => "
            "path.getTotalLength())"
        )
        assert len(lengths) == 7
        assert min(lengths) > 100
        marks = await tab.run(
            "[...document.querySelectorAll('#grid--1 + tr.detail .chart')].map(chart => "
            "[...chart.querySelectorAll('.axis')].map("
            "(line, i) => [Number(chart.querySelectorAll('text')[i].textContent), "
            "Number(line.getAttribute('y1'))]))[0]"
        )
        steps = {
            (round(b[0] - a[0], 6), round(a[1] - b[1], 3)) for a, b in itertools.pairwise(marks)
        }
        assert len(steps) == 1, "marks as far apart as their numbers say"
        (step, _) = next(iter(steps))
        assert f"{step:e}"[0] in "125", "round numbers"

    drive(steps, tmp_path)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_and_a_phone(page, tmp_path, theme):
    async def steps(tab):
        await tab.open(page, f"#theme={theme}&open=grid--2")
        background = await tab.run("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(247, 247, 245)", "dark": "rgb(20, 23, 26)"}[theme]
        assert (
            await tab.run(
                "[...document.querySelectorAll('tr.detail tbody tr')].filter(row => "
                "row.offsetParent).length"
            )
            == 3
        )
        await tab.look(SHOTS / f"{theme}.png")
        await tab.run("document.querySelector('#grid--2').scrollIntoView({block: 'center'})")
        await tab.look(SHOTS / f"{theme}-open.png")
        await tab.ask(
            "Emulation.setDeviceMetricsOverride",
            width=390,
            height=844,
            deviceScaleFactor=1,
            mobile=True,
        )
        assert await tab.run("document.documentElement.scrollWidth <= 390")
        assert (
            await tab.run(
                "getComputedStyle(document.querySelector('.scroll.wide'), '::before').content"
            )
            == '"more to the right →"'
        ), "a table that scrolls says so"
        chart = await tab.run(
            "document.querySelector('tr.detail .chart').getBoundingClientRect().toJSON()"
        )
        assert 0 <= chart["left"] < chart["right"] <= 390, (
            "the curves are seen without scrolling sideways"
        )
        await tab.look(SHOTS / f"{theme}-phone.png")

    drive(steps, tmp_path)


def test_the_system_decides_on_the_theme_where_nobody_did(page, tmp_path):
    async def steps(tab):
        for scheme, background in (("light", "rgb(247, 247, 245)"), ("dark", "rgb(20, 23, 26)")):
            await tab.ask(
                "Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}],
            )
            await tab.open(page)
            assert await tab.run("getComputedStyle(document.body).backgroundColor") == background

    drive(steps, tmp_path)
