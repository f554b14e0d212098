"""Routers: they estimate what every expert would make of a query."""
