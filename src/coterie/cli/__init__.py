"""The command line: one function a command, everything heavy imported inside."""

# Each of these registers its commands; the help lists them in this order.
# ruff: noqa: F401, I001
import coterie.cli.running
import coterie.cli.answering
import coterie.cli.serving
import coterie.cli.records
import coterie.cli.judging
import coterie.cli.selecting
import coterie.cli.scaling
import coterie.cli.simulating
import coterie.cli.keys
import coterie.cli.log
import coterie.cli.explaining
from coterie.cli.base import app, main

__all__ = ["app", "main"]
