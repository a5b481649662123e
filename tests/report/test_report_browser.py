"""The pages in a real browser: nothing is fetched, nothing is said on the console, everything can be used and read."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe

from lossatlas.paths import experiments_dir

SLUGS = sorted(path.parent.name for path in experiments_dir().glob("*/card.yaml"))
DRAWN = """() => [...document.querySelectorAll('.chooser .plot')].every(
    p => p.dataset.drawn && p.querySelectorAll('.scatterlayer .trace').length > 0)"""
NARROW = "() => innerWidth == 360 && document.documentElement.scrollWidth <= 360"
LOADED = "() => [...document.images].every(i => i.complete && i.naturalWidth > 0)"


class Visit:
    """A page of its own, with what it asked for and what it complained about."""

    def __init__(self, browser, width=1200, scheme="light"):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(120_000)  # a machine that is busy with other work
        self.asked, self.said = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def open(self, path: Path):
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("load")
        return self.page

    def draw(self):
        """Everything that waits for the reader to scroll."""
        self.page.evaluate(
            "() => document.images.length && [...document.images].forEach(i => { i.loading = 'eager' })"
        )
        self.page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
        self.page.wait_for_function(DRAWN)
        self.page.wait_for_function(LOADED)

    def quiet(self):
        """No request left the machine, and the console is empty."""
        assert self.asked
        assert [url for url in self.asked if not url.startswith(("file:", "data:"))] == []
        assert self.said == []


@pytest.fixture
def visit(browser):
    visits = []

    def make(**more):
        visits.append(Visit(browser, **more))
        return visits[-1]

    yield make
    for one in visits:
        one.page.close()


def serious(page):
    """axe's findings that keep somebody from reading or using the page."""
    options = {
        "resultTypes": ["violations"],
        "preload": False,
    }  # it would fetch the style sheet a second time
    found = Axe().run(page, options=options).response["violations"]
    return [
        (v["id"], node["html"][:200])
        for v in found
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


def names(page):
    return page.locator("table.papers tbody tr:visible td.name > a").all_inner_texts()


def test_index_filters_and_sorts(atlas, visit, shots):
    seen = visit()
    page = seen.open(atlas / "index.html")
    assert len(names(page)) == len(SLUGS)
    page.fill("#search", "aldr_kl u60 nothing")
    assert names(page) == []
    assert page.locator("#none").is_visible()
    page.fill("#search", "Brébisson")
    assert [name[:10] for name in names(page)] == ["The Z-loss"]
    assert page.locator("#shown").inner_text() == f"1 of {len(SLUGS)} papers"
    page.click("button[type=reset]")
    page.wait_for_function(
        f"() => document.querySelectorAll('.papers tbody tr:not([hidden])').length == {len(SLUGS)}"
    )
    page.select_option("#verdict", "not-reproduced")
    shown = page.locator("table.papers tbody tr:visible .badge.not-reproduced").count()
    assert shown == len(names(page)) > 0
    page.select_option("#verdict", "")
    page.select_option("#family", "bandits")
    assert "Contextual Bandits with Online Neural Regression" in names(page)
    assert len(names(page)) < len(SLUGS)
    page.select_option("#family", "")
    header = page.locator("th", has_text="runs")
    header.locator("button").focus()
    page.keyboard.press("Enter")  # numbers begin with the largest
    runs = [
        int(v)
        for v in page.locator("tbody td[data-label=runs]").evaluate_all("c => c.map(x => x.dataset.value)")
    ]
    assert runs == sorted(runs, reverse=True)
    assert len(set(runs)) > 2
    assert header.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    page.screenshot(path=shots / "index.png", full_page=True)
    seen.quiet()
    assert serious(page) == []


@pytest.mark.parametrize("slug", SLUGS)
def test_page_of_a_paper(atlas, visit, shots, slug):
    """Every figure is drawn, the console stays empty, axe finds nothing serious, nothing overflows at 360 px."""
    seen = visit()
    page = seen.open(atlas / "papers" / f"{slug}.html")
    assert page.locator(".claim").count() > 0
    seen.draw()
    page.screenshot(path=shots / f"{slug}.png", full_page=True)
    assert serious(page) == []
    page.set_viewport_size({"width": 360, "height": 800})
    page.wait_for_function(NARROW)
    page.screenshot(path=shots / f"{slug}-360.png", full_page=True)
    seen.quiet()


def test_a_table_sorts_by_keyboard_and_a_plot_changes(atlas, visit):
    page = (seen := visit()).open(atlas / "papers" / "ldr.html")
    button = page.locator("#results table.sortable button", has_text="test/top1").first
    button.focus()
    page.keyboard.press("Space")
    cells = page.locator("#results table.sortable").first.locator("tbody td:nth-child(3)")
    found = cells.evaluate_all("cells => cells.map(c => Number(c.dataset.value))")
    assert found == sorted(found, reverse=True)
    assert len(found) == 36
    seen.draw()
    menu = page.locator("#plot-1-menu")
    menu.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.querySelector('#plot-1 .plot').dataset.drawn == 'test/top5'")
    assert "test/top5" in page.locator("#plot-1 .plot").get_attribute("aria-label")
    seen.quiet()


@pytest.mark.parametrize("where", ["index.html", "papers/zloss.html"])
def test_dark_and_narrow(atlas, visit, shots, where):
    """Contrast holds in dark mode, too, and the index becomes cards on a telephone."""
    seen = visit(width=360, scheme="dark")
    page = seen.open(atlas / where)
    seen.draw()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    page.wait_for_function(NARROW)
    assert serious(page) == []
    page.screenshot(path=shots / f"dark-360-{Path(where).stem}.png", full_page=True)
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the content"
    seen.quiet()


def test_hostile_text_stays_text(hostile, visit):
    """Nothing that a card or a record says runs, loads or breaks a page."""
    seen = visit()
    page = seen.open(hostile / "index.html")
    assert page.evaluate("() => window.hit") is None
    page = seen.open(hostile / "papers" / "evil.html")
    seen.draw()
    assert page.evaluate("() => window.hit") is None
    assert page.locator("h1").inner_text().startswith("<script>window.hit=1</script>")
    assert page.locator("main script:not([type='application/json'])").count() == 0
    assert page.locator("a[href^='javascript']").count() == 0
    assert page.locator("#plot-1 .plot b").count() == 0
    page.set_viewport_size({"width": 360, "height": 800})
    page.wait_for_function(NARROW)
    assert serious(page) == []
    seen.quiet()
