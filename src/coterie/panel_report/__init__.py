"""The panel as one HTML file that needs nothing else: the verdict first, then what supports it.

Every number is computed from the panel (and what else was judged with it); every name is escaped
by ``coterie.page`` and ``coterie.figures``.
"""

from coterie.panel_report.document import render
from coterie.panel_report.held_out import HeldOut
from coterie.panel_report.opening import verdict

__all__ = ["HeldOut", "render", "verdict"]
