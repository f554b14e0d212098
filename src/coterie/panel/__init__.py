"""The panel: every way of answering on the same held-out questions, judged without mercy.

``judge`` cross-validates the entrants next to the rows that a router has to beat (random, best
single, static votes, a table by category) and the bounds it cannot pass (oracles, real and null).
``judge_battles`` judges rankings on pairwise records, where no query was answered by all.
"""

from coterie.panel.battles import BattlePanel, BattleRow, judge_battles
from coterie.panel.contest import DEFAULT, judge
from coterie.panel.sweeps import Curve, PairMetrics
from coterie.panel.trials import Entrant
from coterie.panel.values import Difference, Panel, PanelRow

__all__ = [
    "DEFAULT",
    "BattlePanel",
    "BattleRow",
    "Curve",
    "Difference",
    "Entrant",
    "PairMetrics",
    "Panel",
    "PanelRow",
    "judge",
    "judge_battles",
]
