"""Router-R1's reward: every branch, the format, cost scales, and a world in which it teaches."""

import functools
import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.compositions.environment import RoutingEnvironment
from coterie.compositions.rewards import (
    FixedCost,
    RollingCost,
    exact_match,
    reward,
    token_f1,
    well_formed,
)
from coterie.errors import InputError
from coterie.types import Call, Completion

UNIT = st.floats(0, 1)


@pytest.mark.parametrize(
    ("metric", "formed", "cost", "weight", "expected"),
    [
        (1.0, True, 0.0, 0.0, 1.0),
        (1.0, True, 1.0, 0.5, 1.0),
        (1.0, True, 0.0, 0.5, 0.5),
        (1.0, True, 0.5, 0.9, 0.55),
        (0.5, True, 0.5, 0.9, 0.5),
        (0.0, True, 1.0, 0.9, 0.0),
        (1.0, False, 1.0, 0.9, -1.0),
        (0.0, False, 0.0, 0.0, -1.0),
    ],
)
def test_the_reward_in_every_branch(
    metric: float, formed: bool, cost: float, weight: float, expected: float
) -> None:
    assert reward(metric, formed, cost, weight) == pytest.approx(expected)


@settings(deadline=None)
@given(UNIT, UNIT, UNIT, UNIT)
def test_a_dearer_conversation_never_earns_more(m: float, w: float, a: float, b: float) -> None:
    scale = FixedCost(0.0, 100.0)
    dear, cheap = (scale(100 * c) for c in sorted((a, b), reverse=True))
    assert reward(m, True, dear, w) <= reward(m, True, cheap, w)
    assert reward(m, False, cheap, w) <= reward(m, True, dear, w)


def test_a_fixed_scale_gives_equal_conversations_equal_rewards() -> None:
    costs = np.random.default_rng(0).gamma(1, 200, 1500)
    fixed, rolling = FixedCost.of(costs[:500]), RollingCost()
    first, later = ([scale(50.0)] for scale in (fixed, rolling))
    for cost in costs:
        fixed(cost), rolling(cost)
    assert fixed(50.0) == first[0]
    assert rolling(50.0) != later[0]


def test_the_rolling_scale_is_the_released_one() -> None:
    costs = np.random.default_rng(1).gamma(1, 200, 40)
    scale = RollingCost(window=10)
    for number, cost in enumerate(costs):
        roots = np.sqrt(costs[max(0, number - 9) : number + 1])
        low, high = np.percentile(roots, 5), np.percentile(roots, 95)
        wanted = 1 - np.clip((np.sqrt(cost) - low) / (high - low), 0, 1) if number else 0.5
        assert scale(cost) == pytest.approx(wanted)


def test_scales_have_ends_and_refuse_what_is_none() -> None:
    scale = FixedCost(4.0, 16.0)
    assert [scale(c) for c in (0.0, 4.0, 9.0, 16.0, 99.0)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert FixedCost(3.0, 3.0)(3.0) == 0.5
    with pytest.raises(InputError, match="0 <= low <= high"):
        FixedCost(2.0, 1.0)
    with pytest.raises(InputError, match="at least one cost"):
        FixedCost.of([])


GOOD = (
    "<think>hm</think><search>small:who?</search>"
    "<information>x</information><think>so</think><answer>b</answer>"
)
NAMES = ("small", "large")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "<answer>b</answer>",
        GOOD[:-1],
        f"so {GOOD}",
        f"{GOOD} done",
        f"{GOOD}{GOOD}",
        GOOD.replace("hm", "..."),
        GOOD.replace("so", " "),
        GOOD.replace("<information>x</information>", ""),
        GOOD.replace("small:who?", "who?"),
        GOOD.replace("small:", "smaller:"),
        GOOD.replace("small:who?", "small:"),
        GOOD.replace("hm", "<think>"),
        GOOD.replace("so", "<search>a:b</search>"),
    ],
)
def test_a_malformed_conversation_is_told_from_a_good_one(text: str) -> None:
    assert well_formed(GOOD, NAMES, released=True)
    assert not well_formed(text, NAMES)


@pytest.mark.parametrize("question", ["at 10:30?", "is small good?", "Your-Query"])
def test_the_released_check_forbids_more(question: str) -> None:
    text = GOOD.replace("who?", question)
    assert well_formed(text, NAMES)
    assert not well_formed(text, NAMES, released=True)


def test_answers_are_scored_as_squad_has_it() -> None:
    assert exact_match("The  Beatles!", ["Queen", "beatles"]) == 1.0
    assert exact_match("Beatles band", ["beatles"]) == 0.0
    assert token_f1("the Beatles band", ["beatles"]) == pytest.approx(2 / 3)
    assert token_f1("yes it is", ["yes"]) == 0.0
    assert token_f1("x", []) == 0.0


EXPERTS = {"north": "knows the north", "south": "knows the south", "atlas": "knows most, dear"}
PRICE = {"north": 1.0, "south": 1.0, "atlas": 25.0}
SKILL, DEAR, WORTH = 0.9, 0.95, FixedCost(0.0, 25.0)
UNKNOWN = "I do not know."


def world(generator: np.random.Generator, topic: str) -> dict[str, str]:
    """What each expert says to a question of this topic, which nobody is told."""
    luck = generator.random(2)
    own = {topic: "right" if luck[0] < SKILL else "wrong"}
    other = {"south" if topic == "north" else "north": UNKNOWN}
    return own | other | {"atlas": "right" if luck[1] < DEAR else "wrong"}


def value(order: tuple[str, ...], weight: float) -> tuple[float, float, float]:
    """Exact reward, accuracy and cost of asking in this order until someone knows."""
    totals = np.zeros(3)
    for topic in ("north", "south"):
        asked = list(order[: min(order.index(e) for e in (topic, "atlas") if e in order) + 1])
        cost = sum(PRICE[e] for e in asked)
        right = DEAR if asked[-1] == "atlas" else SKILL
        totals += np.array([right * reward(1.0, True, WORTH(cost), weight), right, cost]) / 2
    return float(totals[0]), float(totals[1]), float(totals[2])


ORDERS = [
    order
    for k in (1, 2, 3)
    for order in itertools.permutations(EXPERTS, k)
    if "atlas" in order or k == 2
]


def learnt(
    weight: float, episodes: int = 2500, seed: int = 0, shuffled: bool = False
) -> tuple[str, ...]:
    """The order that a table of action values arrives at by Q-learning in the environment."""
    generator, said = np.random.default_rng(seed), dict[str, str]()

    def ask(call: Call) -> Completion:
        return Completion(call.expert, said[call.expert], cost=PRICE[call.expert])

    env = RoutingEnvironment(ask, EXPERTS, cost_reward=WORTH, cost_weight=weight)
    table: defaultdict[tuple[frozenset[str], str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    best = functools.partial(_best, table)
    for _ in range(episodes):
        said |= world(generator, str(generator.choice(["north", "south"])))
        env.reset("where?", ["right"])
        asked, reply, steps = frozenset[str](), UNKNOWN, []
        while reply == UNKNOWN and len(asked) < len(EXPERTS):
            left = [e for e in EXPERTS if e not in asked]
            expert = str(generator.choice(left)) if generator.random() < 0.3 else best(asked)
            steps.append((asked, expert))
            reply = env.route(expert, "where?")
            asked |= {expert}
        env.answer(reply)
        worth = float(generator.random()) if shuffled else env.get_reward()
        for step, later in zip(steps, [*steps[1:], None], strict=True):
            target = worth if later is None else table[later[0], best(later[0])][0]
            entry = table[step]
            entry[1] += 1
            entry[0] += (target - entry[0]) / entry[1]
    order: list[str] = []
    while not order or (order[-1] != "atlas" and len(order) < 2):
        order.append(best(frozenset(order)))
    return tuple(order)


def _best(table: dict[tuple[frozenset[str], str], list[float]], asked: frozenset[str]) -> str:
    return max((e for e in EXPERTS if e not in asked), key=lambda e: table[asked, e][0])


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.9])
def test_a_table_learns_the_best_order_of_asking(weight: float) -> None:
    optimum = max(value(order, weight)[0] for order in ORDERS)
    assert value(learnt(weight), weight)[0] == pytest.approx(optimum, abs=1e-9)


def test_a_larger_weight_of_cost_moves_along_the_frontier() -> None:
    (_, right, cost), (_, cheap_right, cheap_cost) = (value(learnt(w), w) for w in (0.0, 0.5))
    assert (right, cost) == (DEAR, 25.0)
    assert (cheap_right, cheap_cost) == (SKILL, 1.5)


def test_rewards_by_chance_teach_nothing() -> None:
    worths = [value(learnt(0.5, 300, seed, shuffled=True), 0.5)[0] for seed in range(10)]
    assert np.mean(worths) < max(value(order, 0.5)[0] for order in ORDERS) - 0.05


def test_the_environment_counts_what_is_invalid_and_hides_its_state_from_the_tools() -> None:
    env = RoutingEnvironment(lambda c: Completion(c.expert, "x", cost=1.0), EXPERTS, rounds=1)
    assert "- atlas: knows most, dear" in env.reset("where?", ["x"], prompt=[{"role": "user"}])
    assert (env.route("atlas", "where?"), env.route("atlas", "again?")) == ("x", "None")
    env.answer("x")
    assert (env.invalid, env.get_reward()) == (1, -1.0)
    env.reset("where?", ["x"])
    env.answer("x")
    assert (env.invalid, env.get_reward()) == (0, 1.0)
    tools = {n for n in dir(env) if not n.startswith("_") and callable(getattr(env, n))}
    assert tools == {"reset", "get_reward", "route", "answer"}
