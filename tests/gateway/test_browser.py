"""The dashboard in a real browser: what a person does, end to end, on a gateway of its own."""

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from dashboard_world import EVIL, gateway_of, put, says
from log_world import entry, texts

from coterie.gateway.building import Gateway
from coterie.gateway.server import application, bind

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Browser, Page, expect  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PROMPT = texts(1)[0]


@dataclass
class Site:
    """A gateway that listens, and what a page of it did that it should not."""

    gateway: Gateway
    url: str
    faults: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no chromium here (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def served(gateway: Gateway) -> Iterator[Site]:
    """The gateway on a free port of this machine, in a thread."""
    config = uvicorn.Config(application(gateway), lifespan="off", ws="none", log_level="error")
    server, listener = uvicorn.Server(config), bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Site(gateway, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with gateway_of(tmp_path) as gateway, served(gateway) as site:
        yield site


@contextlib.contextmanager
def opened(browser: Browser, site: Site, path: str = "/", **settings: Any) -> Iterator[Page]:
    """A page of the site; whatever it logs or asks elsewhere is a fault."""
    settings = {"viewport": {"width": 1440, "height": 900}, **settings}
    context = browser.new_context(**settings)
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.on("console", lambda said: site.faults.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: site.faults.append(str(error)))
    page.on("request", lambda sent: _check(site, sent.url))
    page.goto(site.url + path)
    try:
        yield page
    finally:
        context.close()


def _check(site: Site, url: str) -> None:
    if not url.startswith((site.url, "data:image/svg")):
        site.faults.append(f"asked {url}")


def ask(page: Page, prompt: str = PROMPT, secret: str = "") -> str:
    """The answer's text, once it is complete."""
    page.fill("#field-prompt", prompt)
    page.fill("#field-secret", secret)
    page.click("#ask")
    expect(page.locator("#answer-note")).to_have_text(re.compile("answered in|No answer"))
    return page.inner_text("#answer")


def test_a_question_is_answered_beside_its_decision_and_shows_in_the_traffic(
    browser: Browser, site: Site
) -> None:
    with opened(browser, site) as page:
        assert ask(page) == "ann says so"
        expect(page.locator("#plan")).to_contain_text("Would ask ann (policy utility")
        expect(page.locator("#decision-shown")).to_contain_text("chosen")
        row = page.locator("a[data-decision]").first
        row.click()
        dialog = page.locator("#dialog")
        expect(dialog).to_contain_text("What would flip it")
        expect(dialog.locator("svg.bar")).to_have_count(3)
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        assert row.evaluate("row => row === document.activeElement")
    assert site.faults == []


def test_the_slider_shows_what_changes_before_it_is_applied(browser: Browser, site: Site) -> None:
    with opened(browser, site) as page:
        expect(page.locator("#apply")).to_be_disabled()
        page.focus("#price")
        page.keyboard.press("Home")
        expect(page.locator("#change")).to_contain_text("requests that go to another expert")
        expect(page.locator("svg.plane .proposed")).to_have_count(1)
        shown = page.inner_text("#price-shown")
        assert page.get_attribute("#price", "aria-valuetext") == shown
        assert ask(page) == "ann says so"  # nothing changed yet
        page.click("#apply")
        expect(page.locator("#status-region")).to_contain_text(f"auto: utility at {shown}")
        expect(page.locator("svg.plane .proposed")).to_have_count(0)
        assert ask(page) == "cid says so"
    assert site.faults == []


def test_a_key_is_made_used_and_revoked(browser: Browser, site: Site) -> None:
    with opened(browser, site) as page:
        page.click("#new-key summary")
        page.fill("#field-name", "ci")
        page.fill("#field-budget", "5")
        page.click("#key-form button[type=submit]")
        expect(page.locator("#secret")).to_be_visible()
        secret = page.inner_text("#secret-text")
        expect(page.locator("#keys-region")).to_contain_text("budget 5 in total")
        page.click("#secret-done")
        assert secret not in page.content()
        assert ask(page, secret=secret) == "ann says so"
        assert site.faults == []
        page.once("dialog", lambda dialog: dialog.accept())
        page.click("button[data-revoke]")
        expect(page.locator("#keys-region")).to_contain_text("revoked")
        ask(page, secret=secret)
        assert "Incorrect API key" in page.inner_text("#answer-note")
    refused = [fault for fault in site.faults if "401" in fault]
    assert refused == site.faults != []


def test_the_traffic_is_live_and_keeps_the_focus_of_whoever_reads_it(
    browser: Browser, site: Site
) -> None:
    old, new = entry(1, "a", "ann", 1.0), entry(2, "b", "bob", 1.0)
    put(site.gateway, old)
    with opened(browser, site) as page:
        page.focus(f"[id='row-{old.id}']")
        put(site.gateway, new)
        expect(page.locator("a[data-decision]").first).to_have_id(f"row-{new.id}")
        assert page.evaluate("document.activeElement.id") == f"row-{old.id}"
        page.select_option("#field-expert", "ann")
        expect(page.locator("a[data-decision]")).to_have_count(1)
    assert site.faults == []


def test_what_experts_and_clients_say_is_never_run(browser: Browser, tmp_path: Path) -> None:
    answers = {EVIL: lambda call: EVIL, "bob": says("bob")}
    told = entry(1, EVIL, "ann", 0.1, error=EVIL, reason=EVIL, shadow=EVIL, expert=EVIL)
    told.asked = EVIL
    with gateway_of(tmp_path, answers, routed=False) as gateway, served(gateway) as site:
        put(gateway, told)
        gateway.trouble = EVIL
        with opened(browser, site) as page:
            page.on("dialog", lambda dialog: site.faults.append(dialog.message))
            page.select_option("#field-model", EVIL)
            assert ask(page, EVIL) == EVIL
            page.locator(f"[id='row-{told.id}']").click()
            expect(page.locator("#dialog-content")).to_contain_text("onerror=alert(1)")
            time.sleep(0.2)
            assert page.locator("img, script:not([src])").count() == 0
    assert site.faults == []


def test_nothing_runs_or_leaves_even_if_it_got_into_the_page(browser: Browser, site: Site) -> None:
    other = bind("127.0.0.1", 0)
    with contextlib.closing(other), opened(browser, site) as page:
        with pytest.raises(playwright.Error, match="TrustedHTML"):
            page.evaluate("document.body.innerHTML = '<img src=x onerror=window.bad=1>'")
        page.evaluate(
            "url => { const image = document.createElement('img'); image.src = url + '/image';"
            "document.body.append(image); return fetch(url).catch(() => 0) }",
            f"http://127.0.0.1:{other.getsockname()[1]}",
        )
        time.sleep(0.2)
        assert page.evaluate("window.bad === undefined")
        with pytest.raises(BlockingIOError):  # nobody came
            other.accept()
    told = " ".join(site.faults)
    assert "img-src 'self' data:" in told
    assert "connect-src 'self'" in told


def test_an_administrator_logs_in_and_out(
    browser: Browser, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_ADMIN_KEY", "correct horse battery staple")
    with opened(browser, site) as page:
        expect(page.locator("#field-key")).to_be_focused()
        page.fill("#field-key", "wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="wrong")).to_be_visible()
        page.fill("#field-key", "correct horse battery staple")
        page.keyboard.press("Enter")
        expect(page.locator("#traffic-region")).to_be_visible()
        assert page.evaluate("document.cookie") == ""
        page.click("#logout")
        expect(page.locator("#field-key")).to_be_visible()
    assert all("401" in fault for fault in site.faults)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_it_fits_phones_and_desks_in_both_schemes(
    browser: Browser, site: Site, width: int, scheme: str
) -> None:
    put(site.gateway, *[entry(i, "x" * 300, "ann", 0.1, error="e" * 60) for i in range(3)])
    sizes: dict[str, Any] = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    with opened(browser, site, **sizes) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)")
        page.locator("a[data-decision]").first.click()
        expect(page.locator("#dialog")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
    assert site.faults == []


def test_everything_is_reached_by_keyboard_with_the_focus_in_sight(
    browser: Browser, site: Site
) -> None:
    put(site.gateway, entry(1, "a", "ann", 1.0))
    with opened(browser, site) as page:
        seen = []
        for _ in range(60):
            page.keyboard.press("Tab")
            told = page.evaluate(
                "(() => { const e = document.activeElement;"
                "const name = e === document.body ? '' : e.id || e.textContent.trim();"
                "return [name, getComputedStyle(e).outlineStyle] })()"
            )
            seen.append(told)
        names = {name for name, _ in seen}
        assert seen[0][0] == "to the content"
        assert {"reload", "field-expert", "price", "field-prompt", "ask"} <= names
        assert any(name.startswith("row-") for name in names)
        assert [name for name, outline in seen if name and outline == "none"] == []


def test_without_script_the_page_still_shows_what_goes_on(browser: Browser, site: Site) -> None:
    put(site.gateway, entry(1, "a", "ann", 1.0))
    with opened(browser, site, java_script_enabled=False) as page:
        expect(page.locator("#traffic-region")).to_contain_text("ann")
        expect(page.locator("#ask-form")).to_be_hidden()
        page.locator("a[data-decision]").first.click()
        expect(page.locator("h2")).to_have_text("Decision")
        expect(page.locator("main")).to_contain_text("Candidates")


def test_an_answer_under_way_can_be_stopped(browser: Browser, tmp_path: Path) -> None:
    go = threading.Event()

    def slow(call: object) -> str:
        go.wait(20)
        return "late"

    with gateway_of(tmp_path, {"ann": slow}, routed=False) as gateway, served(gateway) as site:
        with opened(browser, site) as page:
            page.select_option("#field-model", "ann")
            page.fill("#field-prompt", "hello")
            page.click("#ask")
            page.click("#stop")
            expect(page.locator("#answer-note")).to_have_text("Stopped.")
            expect(page.locator("#ask")).to_be_enabled()
        go.set()
    assert site.faults == []


def test_a_reload_that_is_refused_says_why(browser: Browser, site: Site, tmp_path: Path) -> None:
    path = tmp_path / "pool.toml"
    with opened(browser, site) as page:
        path.write_text(path.read_text().replace("'utility'", "'no-such-policy'"))
        page.click("#reload")
        expect(page.locator("#notice")).to_contain_text("no-such-policy")
        expect(page.locator("#status-region")).to_contain_text("The last reload was refused")
        path.write_text(path.read_text().replace("'no-such-policy'", "'utility'"))
        page.click("#reload")
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.locator("#status-region")).not_to_contain_text("refused:")
    assert len(site.faults) == 1
    assert "409" in site.faults[0]


WIDTHS = [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")]


@pytest.mark.parametrize(("width", "scheme"), WIDTHS)
def test_an_audit_finds_nothing_that_keeps_anybody_out(
    browser: Browser, site: Site, width: int, scheme: str
) -> None:
    put(site.gateway, entry(1, "a", "ann", 1.0), entry(2, "b", "bob", 0.5))
    size: Any = {"width": width, "height": 900}
    with opened(browser, site, bypass_csp=True, viewport=size, color_scheme=scheme) as page:
        assert ask(page) == "ann says so"
        page.click("#new-key summary")
        audits = [Axe().run(page)]
        page.locator("a[data-decision]").first.click()
        expect(page.locator("#dialog")).to_contain_text("What would flip it")
        audits.append(Axe().run(page))
    assert "".join(a.generate_report() for a in audits if a.violations_count) == ""
