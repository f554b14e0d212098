"""The page's frame: its sections, its forms, and the one HTML file around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from coterie.gateway.dashboard.nodes import Element, Node, element, render

FOLDER = Path(__file__).parent
SECTIONS = {
    "traffic": "Traffic",
    "trade-off": "Trade-off",
    "spending": "Spending",
    "experts": "Experts",
    "keys": "Keys",
    "playground": "Playground",
}
STATUSES = {
    "": "any",
    "answered": "answered",
    "failed": "failed",
    **{str(code): str(code) for code in (400, 401, 403, 404, 429, 499, 500, 502, 503, 504)},
}


@cache
def asset(name: str) -> bytes:
    """A file of this folder."""
    return (FOLDER / name).read_bytes()


def page(title: str, main: Sequence[Node], aside: Sequence[Node] = (), token: str = "") -> str:
    """A whole page; ``aside`` goes into its header."""
    shell = Template(asset("dashboard.html").decode())
    return shell.substitute(
        title=escape(title), main=render(*main), aside=render(*aside), token=escape(token)
    )


def region(id: str, nodes: Sequence[Node], every: float | None = None) -> Element:
    """What the script keeps up to date, every so many seconds."""
    source = f"/dashboard/api/{id}"
    return element("div", *nodes, id=id + "-region", data_source=source, data_every=every)


def section(id: str, *content: Node, note: str = "") -> Element:
    """A part of the page with its heading."""
    heading = element("h2", SECTIONS[id], id=f"{id}-heading")
    told = element("p", note, class_="note") if note else None
    return element("section", heading, told, *content, id=id, aria_labelledby=f"{id}-heading")


def navigation() -> Element:
    """Links to the sections."""
    links = [element("li", element("a", name, href=f"#{id}")) for id, name in SECTIONS.items()]
    return element("nav", element("ul", *links), aria_label="Sections")


def filters(experts: Sequence[str], chosen: Mapping[str, str]) -> Element:
    """The form above the traffic; without script its button applies it."""
    names = {"": "any", **{name: name for name in experts}}
    return element(
        "form",
        select("expert", "answered by", names, chosen.get("expert", "")),
        select("status", "status", STATUSES, chosen.get("status", "")),
        element("button", "filter", type="submit"),
        id="filters",
        method="get",
        action="/",
        class_="row",
    )


def select(id: str, label: str, options: Mapping[str, str], chosen: str = "") -> Element:
    """A labelled choice."""
    made = [
        element("option", text, value=value, selected=value == chosen)
        for value, text in options.items()
    ]
    return element(
        "label", element("span", label), element("select", *made, id=f"field-{id}", name=id)
    )


def field(id: str, label: str, kind: str = "text", **attributes: object) -> Element:
    """A labelled input."""
    box = element("input", type=kind, id=f"field-{id}", name=id, autocomplete="off", **attributes)
    return element("label", element("span", label), box)


def slider(last: int, at: int, price: str) -> Element:
    """The willingness to pay: moved first, applied later."""
    box = element(
        "input", type="range", id="price", min=0, max=last, step=1, value=at,
        aria_valuetext=price, aria_describedby="price-note",
    )  # fmt: skip
    return element(
        "form",
        element("label", "willingness to pay: ", element("output", price, id="price-shown"),
                for_="price"),
        box,
        element("p", "What a perfect answer is worth, in the pool's unit of cost; at the right "
                "end quality alone counts. Nothing changes until you apply it, and a restart or "
                "a reload brings the pool file's policy back.", class_="note", id="price-note"),
        element("div",
                element("button", "apply to auto", type="submit", id="apply", disabled=True),
                element("button", "back", type="button", id="undo", disabled=True), class_="row"),
        id="price-form",
        class_="needs-script",
    )  # fmt: skip


def key_form() -> Element:
    """How a key is made."""
    return element(
        "details",
        element("summary", "New key"),
        element(
            "form",
            field("name", "name", required=True, maxlength=100),
            field("team", "team", maxlength=100),
            field("budget", "budget, in the pool's unit", "number", min=0, step="any"),
            select("period", "budget is for", {"total": "all time", "day": "a day",
                                               "month": "a month"}),
            field("rpm", "requests a minute", "number", min=0, step=1),
            field("tpm", "tokens a minute", "number", min=0, step=1),
            field("concurrency", "requests at a time", "number", min=0, step=1),
            field("experts", "only these experts, split by commas"),
            field("expires", "ends on (UTC)", "date"),
            element("button", "create key", type="submit"),
            id="key-form",
            class_="grid",
        ),
        class_="needs-script",
        id="new-key",
    )  # fmt: skip


def secret_box() -> Element:
    """Where a new key's secret is shown, once."""
    return element(
        "div",
        element("p", "Copy the secret now; it is shown only this once."),
        element("code", id="secret-text", tabindex=0),
        element("div",
                element("button", "copy", type="button", id="secret-copy"),
                element("button", "done", type="button", id="secret-done"), class_="row"),
        id="secret",
        class_="secret",
        role="status",
        hidden=True,
    )  # fmt: skip


def playground(models: Sequence[str]) -> Element:
    """A question, its answer and beside it the decision."""
    form = element(
        "form",
        element("label", element("span", "question"),
                element("textarea", id="field-prompt", name="prompt", rows=4, required=True)),
        element("div",
                select("model", "model", {name: name for name in models}),
                field("secret", "API key, where keys are required", "password"), class_="row"),
        element("div",
                element("button", "ask", type="submit", id="ask"),
                element("button", "stop", type="button", id="stop", disabled=True), class_="row"),
        id="ask-form",
    )  # fmt: skip
    answer = element(
        "div",
        form,
        element("h3", "Answer", id="answer-heading"),
        element("pre", id="answer", tabindex=0, role="log", aria_labelledby="answer-heading"),
        element("p", id="answer-note", class_="note", role="status"),
    )
    decision = element(
        "div",
        element("h3", "Decision"),
        element("p", "Ask something to see who answers it and why.", id="plan", class_="note"),
        element("div", id="decision-shown"),
    )
    return element("div", answer, decision, class_="columns needs-script")


def dialog() -> Element:
    """Where a decision opens."""
    return element(
        "dialog",
        element("div",
                element("h2", "Decision", id="dialog-heading"),
                element("button", "close", type="button", id="dialog-close"), class_="bar-row"),
        element("div", id="dialog-content"),
        id="dialog",
        aria_labelledby="dialog-heading",
    )  # fmt: skip


def login_form(why: str = "") -> list[Node]:
    """Asks for the administrator's key; works without script."""
    return [
        element(
            "section",
            element("h2", "Log in", id="login-heading"),
            element("p", why, class_="refusal", role="alert") if why else None,
            element(
                "form",
                element("input", name="username", value="administrator", hidden=True,
                        autocomplete="username"),
                element("label", element("span", "administrator's key"),
                        element("input", type="password", id="field-key", name="key",
                                required=True, autocomplete="current-password", autofocus=True)),
                element("button", "log in", type="submit"),
                method="post",
                action="/dashboard/login",
                class_="grid",
            ),
            element("p", "The key is in the environment variable COTERIE_ADMIN_KEY of the gateway.",
                    class_="note"),
            class_="login",
            aria_labelledby="login-heading",
        )
    ]  # fmt: skip
