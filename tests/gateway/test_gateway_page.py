"""The gateway's page names what there is: settings with their defaults, wishes, timeouts."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from coterie.gateway.asked import Wishes
from coterie.settings import GatewayTable

PAGE = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text(encoding="utf-8")


def settings(table: BaseModel, above: str = "") -> Iterator[tuple[str, str]]:
    """Every key and its default."""
    for name, value in table:
        if isinstance(value, BaseModel):
            yield from settings(value, f"{above}{name}.")
        else:
            yield above + name, json.dumps(value)


def test_the_page_has_every_setting_with_its_default() -> None:
    told = PAGE.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    assert re.findall(r"^\| `(\S+)` \| `(.*?)` \|", told, re.MULTILINE) == [
        *settings(GatewayTable())
    ]


def test_the_page_has_every_wish_as_field_and_as_header() -> None:
    told = PAGE.partition("## Constraints")[2].partition("## Keys")[0]
    for name in Wishes.__struct_fields__:
        assert f"`{name}`" in told
        assert f"`x-coterie-{name.replace('_', '-')}`" in told


def test_the_timeouts_of_the_page_are_the_defaults() -> None:
    told = dict(re.findall(r"^\| `([a-z.]+)` \| (\d+) \|", PAGE, re.MULTILINE))
    defaults = dict(settings(GatewayTable()))
    assert len(told) == 6
    assert {name: float(value) for name, value in told.items()} == {
        name: float(defaults[name]) for name in told
    }
