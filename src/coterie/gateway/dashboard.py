"""The dashboard's routes."""

from __future__ import annotations

from starlette.routing import BaseRoute

from coterie.gateway.building import Gateway


def routes(gateway: Gateway) -> list[BaseRoute]:
    """All of them."""
    return []
