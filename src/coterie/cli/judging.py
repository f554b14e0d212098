"""Commands that judge routers: evaluate."""
