"""Coterie: many language models answer as one."""

__version__ = "0.1.0"
