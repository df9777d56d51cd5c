"""The page for everybody: on a phone's width and a desktop's, in both themes, by keyboard alone, through axe."""

from __future__ import annotations

import json

import pytest

TABS = ("Sentiment", "Topics", "Batch", "Train", "No labels", "Review", "Models")
WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}
GRAVE = ("serious", "critical")


@pytest.fixture(
    params=[
        ("phone", "dark"),
        ("desktop", "light"),
        ("phone", "light"),
        ("desktop", "dark"),
    ],
    ids="-".join,
)
def sized(request, browser, opened, workshop):
    """The workshop's page on one width and in one theme."""
    width, theme = request.param
    size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
    context = browser.browser.new_context(viewport=size, color_scheme=theme)
    page = opened(workshop.address, context)
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
    yield page
    context.close()


def said(page, place, words):
    page.wait_for_function(
        "([place, words]) => document.querySelector(place)?.innerText.includes(words)", arg=[place, words]
    )


def use(page, tab):
    """Have a tab show as much as it can."""
    if tab == "Sentiment":
        page.fill("#sentiment-text textarea", "a warm film")
        page.click("#sentiment-classify")
        page.wait_for_selector("#sentiment-scores dd")
        page.click("#sentiment-wrong")
        page.click("#sentiment-why")
        page.wait_for_selector("#sentiment-words .rehead-word")
        page.click("#sentiment-many button")
        page.fill("#sentiment-lines textarea", "one\ntwo")
        page.click("#sentiment-classify-lines")
        said(page, "#sentiment-table", "two")
        page.click("#sentiment-snippet button")
        said(page, "#sentiment-code", "curl")
    elif tab == "Topics":
        page.click("#topics-sets button")
        page.click("#topics-classify")
        page.wait_for_selector("#topics-problem [role=alert]")
        page.get_by_text("The central bank raised").first.click()
        page.wait_for_selector("#topics-scores dd")
    elif tab == "Batch":
        page.click("#batch-example")
        page.wait_for_selector("#batch-preview", state="visible")
        page.wait_for_function("document.querySelector('#batch-column input').value === 'text'")
        page.click("#batch-score")
        page.wait_for_selector("#batch-result", state="visible")
    elif tab == "Train":
        page.click("#train-more button")
        page.click("#train-recipe button")
        said(page, "#train-recipe-code", "rehead finetune")
    elif tab == "No labels":
        page.click("#no-labels-more button")
        page.click("#no-labels-people button")
        page.click("#no-labels-start")
        page.wait_for_selector("#no-labels-problem [role=alert]")
        page.click("#no-labels-example")
        said(page, "#no-labels-report", "rows will be scored")
    elif tab == "Review":
        page.wait_for_function("document.querySelector('#review-offered') !== null")
        page.click("#review-offered input")
        page.click("[role=option][aria-label='films.csv'] >> visible=true")
        page.wait_for_selector("#review-preview", state="visible")
        page.fill("#review-reviewer input, #review-reviewer textarea", "Ann")
        page.click("#review-start")
        page.wait_for_selector("#review-question blockquote", state="visible")
    else:
        page.wait_for_selector("#models-cards article")
        page.click("#models-compare")
        said(page, "#models-table", "central bank")


def settle(page):
    """Wait until nothing is being computed: Gradio fades what will be replaced."""
    page.wait_for_function("!document.querySelector('.pending')")
    page.wait_for_function(
        "document.getAnimations().every(one => one.playState !== 'running' || one.effect.getTiming().iterations > 9)"
    )


@pytest.mark.slow
def test_no_tab_is_wider_than_its_window_and_axe_finds_nothing_grave(sized):
    from axe_playwright_python.sync_playwright import Axe

    axe, grave = Axe(), []
    for tab in TABS:
        sized.get_by_role("tab", name=tab).click()
        sized.wait_for_selector(f"#{tab.lower().replace(' ', '-')}-link", state="visible")
        use(sized, tab)
        settle(sized)
        wide = sized.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide[0] <= wide[1], tab
        found = axe.run(sized).response
        assert len(found["passes"]) > 10
        grave += [
            (tab, one["id"], node["html"][:200])
            for one in found["violations"]
            if one["impact"] in GRAVE
            for node in one["nodes"]
        ]
    assert not grave, "\n".join(map(str, grave))


def focused(page):
    """What has the focus, as a person would tell: its nearest element with an id that we gave."""
    return page.evaluate("document.activeElement.closest('[id]:not([id^=component]):not([id^=c])')?.id || ''")


def reach(page, place, *, key="Tab", most=60):
    """Go from element to element by keyboard until the focus is in `place`."""
    for _ in range(most):
        inside = "place => document.querySelector(place)?.contains(document.activeElement)"
        if page.evaluate(inside, place):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{place} is not reached with {key}; the focus is in {focused(page)!r}")


def press(page, place):
    reach(page, place)
    page.keyboard.press("Enter")


def open_by_keyboard(page, tab):
    page.evaluate("document.activeElement.blur(); document.body.tabIndex = -1; document.body.focus()")
    reach(page, f'[role=tab][data-tab-id="{tab}"]')
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#{tab}-link", state="visible")


@pytest.mark.slow
def test_every_tab_is_used_by_keyboard_alone(opened, workshop):
    page = opened(workshop.address)
    page.evaluate("""() => {
        window.pointed = 0;
        for (const kind of ["pointerdown", "mousedown"]) addEventListener(kind, () => window.pointed++, true);
    }""")
    reach(page, "#sentiment-text")
    page.keyboard.type("a warm film")
    press(page, "#sentiment-classify")
    page.wait_for_selector("#sentiment-scores dd")
    press(page, "#sentiment-why")
    page.wait_for_selector("#sentiment-words .rehead-word")

    open_by_keyboard(page, "topics")
    reach(page, "#topics-text")
    page.keyboard.type("the match")
    reach(page, "#topics-labels input")
    for _ in range(4):
        page.keyboard.press("Backspace")
    page.keyboard.type("red, green")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('#topics-labels .token').length === 2")
    press(page, "#topics-classify")
    said(page, "#topics-scores", "green")

    open_by_keyboard(page, "batch")
    press(page, "#batch-example")
    page.wait_for_function("document.querySelector('#batch-column input').value === 'text'")
    press(page, "#batch-score")
    page.wait_for_selector("#batch-download", state="visible")

    open_by_keyboard(page, "train")
    reach(page, "#train-offered input")
    page.keyboard.type("films")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#train-label input').value === 'label'")
    reach(page, "#train-name")
    page.keyboard.type("topics")  # a name that is taken: the answer shows that everything was reached
    press(page, "#train-start")
    said(page, "#train-problem", "There is a model 'topics' already")

    open_by_keyboard(page, "no-labels")
    press(page, "#no-labels-example")
    said(page, "#no-labels-report", "rows will be scored")
    reach(page, "#no-labels-labels input")
    page.keyboard.press("Backspace")
    page.wait_for_function("document.querySelectorAll('#no-labels-labels .token').length === 2")
    reach(page, "#no-labels-name")
    page.keyboard.type("topics")
    press(page, "#no-labels-start")
    said(page, "#no-labels-problem", "There is a model 'topics' already")

    open_by_keyboard(page, "models")
    press(page, "#models-compare")
    said(page, "#models-table", "central bank")
    assert page.evaluate("window.pointed") == 0


def test_what_changes_is_told_to_those_who_do_not_see_it(opened, workshop):
    page = opened(workshop.address)
    page.get_by_role("tab", name="Batch").click()
    page.click("#batch-score")
    page.wait_for_selector("#batch-problem [role=alert]")
    page.click("#batch-example")
    page.wait_for_function("document.querySelector('#batch-column input').value === 'text'")
    page.click("#batch-score")
    page.wait_for_selector("#batch-progress [role=status]")
    names = json.loads(
        page.evaluate("""() => JSON.stringify([...document.querySelectorAll("input, textarea, button")]
            .filter((one) => one.offsetParent && !one.innerText.trim() && !one.labels?.length
                && !one.getAttribute("aria-label") && !one.title && one.type !== "file")
            .map((one) => one.outerHTML.slice(0, 200)))""")
    )
    assert names == []
