"""Online routers and the policies that explore with them, in worlds whose optimum is known."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coterie.errors import ArtifactError, InputError, NotFittedError
from coterie.features import Encoder, Vectors
from coterie.metrics.selection import cumulative_regret
from coterie.policies import UCB, Paced, Policy, Thompson, Utility, allocate
from coterie.policies.bandits import chance_to_win
from coterie.records import Records
from coterie.routers.online import Online, OnlineLinear, OnlineMean
from coterie.testing import make_records
from coterie.types import Decision, Estimates, FloatArray, Query

EXPERTS = ("ann", "bob", "cid")
COUNT = 1000


class Coordinates(Encoder):
    """Texts are the numbers of their own vectors."""

    name = "coordinates"
    dim = 3

    def encode(self, texts: Sequence[str]) -> Vectors:
        return np.array([json.loads(t) for t in texts], np.float32).reshape(-1, self.dim)

    def fingerprint(self) -> str:
        return self.name

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {}, {}

    @classmethod
    def from_arrays(cls, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        return cls()


class World:
    """Questions of three kinds; who is right is drawn with a known chance, (kinds, experts)."""

    cost = np.array([1.0, 1.0, 4.0])

    def __init__(self, chances: Any, count: int = COUNT, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        kinds = rng.integers(0, 3, count)
        unit = np.eye(3)[kinds]
        self.queries = [
            Query.from_text(f"q{i}", json.dumps(u.tolist())) for i, u in enumerate(unit)
        ]
        self.chances: FloatArray = np.asarray(chances, float)[kinds]
        self.right = (rng.random(self.chances.shape) < self.chances).astype(float)

    def serve(self, router: Online, policy: Policy, delay: int = 0) -> list[Decision]:
        """Decide question by question; outcomes come ``delay`` questions later."""
        made: list[Decision] = []
        for row, query in enumerate(self.queries):
            made += policy.decide([query], router.predict([query]))
            if row >= delay:
                self.tell(router, made, row - delay)
        return made

    def tell(self, router: Online, made: Sequence[Decision], row: int) -> None:
        column = EXPERTS.index(made[row].experts[0])
        reward = float(self.right[row, column])
        router.update(self.queries[row], EXPERTS[column], reward, float(self.cost[column]))

    def regret(self, made: Sequence[Decision], price: float = np.inf) -> FloatArray:
        chosen = np.array([EXPERTS.index(d.experts[0]) for d in made])
        utility = self.chances if np.isinf(price) else price * self.chances - self.cost
        return cumulative_regret(chosen, utility)


SPECIALISTS = [[0.9, 0.2, 0.5], [0.2, 0.9, 0.5], [0.5, 0.2, 0.9]]
ALIKE = [[0.6, 0.6, 0.6]] * 3


def linear() -> OnlineLinear:
    return OnlineLinear(encoder=Coordinates()).open(EXPERTS)


def mean() -> OnlineMean:
    return OnlineMean().open(EXPERTS)


def uniform(world: World) -> FloatArray:
    chosen = np.random.default_rng(1).integers(0, 3, len(world.queries))
    return cumulative_regret(chosen, world.chances)


# formulas


def test_the_regression_is_linucbs() -> None:
    world, router = World(SPECIALISTS, 40), linear()
    for row, query in enumerate(world.queries):
        router.update(query, "bob", world.right[row, 1])
    x = np.array([[*json.loads(q.text), 1.0] for q in world.queries])
    precision, b = np.eye(4) + x.T @ x, x.T @ (world.right[:, 1] - 0.5)
    expected, new = router.predict(world.queries[:1]), x[0]
    assert expected.quality[0, 1] == pytest.approx(0.5 + b @ np.linalg.solve(precision, new))
    assert expected.error is not None
    bound = 0.5 * np.sqrt(new @ np.linalg.solve(precision, new))
    assert expected.error[0, 1] == pytest.approx(bound)
    assert expected.error[0, 0] == pytest.approx(0.5 * np.sqrt(2.0))  # ann: x has length sqrt(2)


def test_the_mean_is_that_of_a_beta_posterior() -> None:
    router, query = mean(), Query.from_text("q", "?")
    for reward in (1.0, 1.0, 0.0):
        router.update(query, "ann", reward, cost=2.0)
    expected = router.predict([query])
    assert expected.quality[0].tolist() == pytest.approx([3 / 5, 1 / 2, 1 / 2])
    assert expected.error is not None
    assert expected.error[0, 0] == pytest.approx(np.sqrt(3 * 2 / (5**2 * 6)))  # Beta(3, 2)
    assert expected.cost[0].tolist() == [2.0, 0.0, 0.0]


def test_ucb_adds_alpha_errors_and_without_them_is_utility() -> None:
    estimates = Estimates(
        EXPERTS,
        np.array([[0.5, 0.6, 0.4]]),
        np.array([[1.0, 1.0, 4.0]]),
        error=np.array([[0.2, 0.05, 0.1]]),
    )
    query = [Query.from_text("q", "?")]
    (bold,), (timid,) = (UCB(a, 10.0).decide(query, estimates) for a in (1.0, 0.0))
    assert bold.experts == ("ann", "bob", "cid")
    assert bold.utility == pytest.approx(10 * 0.7 - 1)
    assert bold.weights == (0.5, 0.6, 0.4)
    assert timid.experts == Utility(10.0).decide(query, estimates)[0].experts


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), min_size=1, max_size=5))
def test_chances_to_win_sum_to_one(arms: list[tuple[float, float]]) -> None:
    mean, error = np.array(arms).T
    chances = [chance_to_win(mean, error, j) for j in range(len(arms))]
    distinct = len(set(mean)) == len(mean) and np.diff(np.sort(mean)).min(initial=1) > 1e-6
    if distinct or (error > 0).all():
        assert sum(chances) == pytest.approx(1.0, abs=0.01)
    assert min(chances) >= 0


def test_a_chance_to_win_is_the_share_of_draws_that_win() -> None:
    mean, error = np.array([0.5, 0.6, 0.3]), np.array([0.2, 0.05, 0.3])
    drawn = mean + error * np.random.default_rng(0).standard_normal((100_000, 3))
    shares = np.bincount(drawn.argmax(axis=1), minlength=3) / 100_000
    assert [chance_to_win(mean, error, j) for j in range(3)] == pytest.approx(shares, abs=0.005)


def test_thompson_says_with_which_propensity_it_chose() -> None:
    count = 1500
    queries = [Query.from_text(f"q{i}", "?") for i in range(count)]
    quality, rest = np.tile([0.5, 0.6, 0.3], (count, 1)), np.full((count, 3), 0.1)
    many = Estimates(EXPERTS, quality, rest, error=rest)
    made = Thompson().decide(queries, many)
    for name in ("ann", "bob"):
        own = [d for d in made if d.experts[0] == name]
        assert len(own) / count == pytest.approx(own[0].evidence["propensity"], abs=0.04)
    turned = Estimates(EXPERTS[::-1], many.quality[:, ::-1], many.cost, error=many.error)
    assert [d.experts for d in Thompson().decide(queries, turned)] == [d.experts for d in made]
    certain = Thompson(scale=0.0).decide(queries, many)
    assert {d.experts for d in certain} == {("bob", "ann", "cid")}
    assert certain[0].evidence["propensity"] == pytest.approx(1.0)


def test_exploring_by_errors_needs_errors() -> None:
    plain = Estimates(EXPERTS, np.ones((1, 3)), np.ones((1, 3)))
    for policy in (UCB(), Thompson()):
        with pytest.raises(InputError, match="needs standard errors"):
            policy.decide([Query.from_text("q", "?")], plain)


# regret


@pytest.mark.parametrize("policy", [UCB(), Thompson()])
def test_the_regret_of_a_contextual_bandit_flattens(policy: Policy) -> None:
    world = World(SPECIALISTS)
    lost, by_chance = world.regret(world.serve(linear(), policy)), uniform(world)
    half = len(lost) // 2
    assert lost[-1] < 0.15 * by_chance[-1]
    assert lost[-1] - lost[half] < 0.5 * lost[half]  # sublinear: the second half adds less
    assert by_chance[-1] - by_chance[half] > 0.8 * by_chance[half]  # chance does not learn


@pytest.mark.parametrize("policy", [UCB(), Thompson()])
def test_a_stateless_bandit_finds_the_best_on_average_and_no_more(policy: Policy) -> None:
    world = World([[0.9, 0.2, 0.5], [0.9, 0.2, 0.5], [0.9, 0.2, 0.5]])
    lost = world.regret(world.serve(mean(), policy))
    assert lost[-1] < 0.15 * uniform(world)[-1]
    varied = World(SPECIALISTS)
    blind = varied.regret(varied.serve(mean(), policy))[-1]
    assert blind > 0.5 * uniform(varied)[-1]  # it does not see what kind a question is


def test_where_the_context_says_nothing_the_contextual_bandit_gains_nothing() -> None:
    world = World(SPECIALISTS)
    order = np.random.default_rng(3).permutation(len(world.queries))
    world.chances, world.right = world.chances[order], world.right[order]  # the negative control
    lost = world.regret(world.serve(linear(), UCB()))[-1]
    one_for_all = (world.chances.max(axis=1)[:, None] - world.chances).sum(axis=0).min()
    assert lost > 0.95 * one_for_all


def test_where_experts_are_alike_there_is_nothing_to_regret() -> None:
    world = World(ALIKE, 200)
    assert world.regret(world.serve(linear(), UCB()))[-1] == 0.0


def test_feedback_that_comes_late_delays_learning_and_no_more() -> None:
    world = World(SPECIALISTS)
    late = world.regret(world.serve(linear(), UCB(), delay=50))
    assert late[-1] < 0.25 * uniform(world)[-1]
    assert late[-1] - late[len(late) // 2] < 0.5 * late[len(late) // 2]


def test_costs_count_at_the_willingness_to_pay() -> None:
    world = World([[0.5, 0.2, 0.9]] * 3)
    rich, poor = (
        [d.experts[0] for d in world.serve(linear(), UCB(0.5, price))[-300:]] for price in (50, 2)
    )
    assert rich.count("cid") > 250  # 0.4 more for 3 more
    assert poor.count("ann") > 150
    assert "cid" not in poor  # costs 4, and a right answer is worth 2


# budgets


def budgeted(world: World, policy: Policy, mean_cost: float) -> tuple[float, float]:
    """Mean cost and mean chance to be right."""
    router = linear()
    for column, expert in enumerate(EXPERTS):  # prices are public: one costly call each tells them
        router.update(world.queries[0], expert, 0.5, float(world.cost[column]))
    made = world.serve(router, policy)
    chosen = np.array([EXPERTS.index(d.experts[0]) for d in made])
    value = world.chances[np.arange(len(chosen)), chosen]
    return float(world.cost[chosen].mean()), float(value.mean())


@pytest.mark.parametrize("inner", [UCB(), Thompson()])
@pytest.mark.parametrize("mean_cost", [1.5, 2.5])
def test_a_paced_bandit_keeps_its_budget_and_nears_the_optimum(
    inner: Policy, mean_cost: float
) -> None:
    world = World([[0.9, 0.2, 0.95], [0.1, 0.3, 0.9], [0.3, 0.2, 0.6]])
    cost, value = budgeted(world, Paced(mean_cost, inner, len(world.queries)), mean_cost)
    best = allocate(world.chances, np.tile(world.cost, (COUNT, 1)), mean_cost).value
    cheapest = world.chances[:, 0].mean()
    assert cost <= mean_cost + 1e-9
    assert value > cheapest + 0.8 * (best - cheapest)


def test_without_pacing_the_budget_is_exceeded() -> None:
    world = World([[0.9, 0.2, 0.95], [0.1, 0.3, 0.9], [0.3, 0.2, 0.6]])
    assert budgeted(world, UCB(), 1.5)[0] > 3.0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(0, 10**6))
def test_a_horizons_total_is_never_exceeded(costs: list[int], seed: int) -> None:
    prices = np.array([1.0, *costs])
    names = tuple(f"e{j}" for j in range(len(prices)))
    quality = np.random.default_rng(seed).random((20, len(prices)))
    estimates = Estimates(names, quality, np.tile(prices, (20, 1)))
    paced = Paced(2.0, horizon=20)
    made = paced.decide([Query.from_text(f"q{i}", "?") for i in range(20)], estimates)
    spent = sum(prices[names.index(d.experts[0])] for d in made)
    assert spent <= 40.0 + 1e-6
    assert spent == pytest.approx(paced.spent)


def test_a_paced_policy_goes_on_from_its_stored_state() -> None:
    world, router = World(SPECIALISTS, 60), linear()
    estimates = router.predict(world.queries)
    whole = Paced(2.0, UCB(), horizon=60).decide(world.queries, estimates)
    first = Paced(2.0, UCB(), horizon=60)
    begun = first.decide(world.queries[:30], router.predict(world.queries[:30]))
    stored = json.dumps(first.state())
    second = Paced(2.0, UCB(), horizon=60).restore(json.loads(stored))
    rest = second.decide(world.queries[30:], router.predict(world.queries[30:]))
    assert [*begun, *rest] == whole


def test_settling_replaces_the_expected_cost_by_the_real_one() -> None:
    paced = Paced(2.0)
    estimates = Estimates(("ann",), np.ones((1, 1)), np.full((1, 1), 1.5))
    (decision,) = paced.decide([Query.from_text("q", "?")], estimates)
    assert paced.spent == 1.5
    paced.settle(decision, 4.0)
    assert paced.spent == 4.0
    with pytest.raises(InputError, match="a decision of this policy"):
        paced.settle(Decision("single", ("ann",), (1.0,)), 1.0)


# state


@pytest.mark.parametrize("make", [linear, mean])
def test_outcomes_in_another_order_lead_to_the_same_state(make: Callable[[], Online]) -> None:
    world, routers = World(SPECIALISTS, 60), (make(), make())
    for router, order in zip(routers, (range(60), reversed(range(60))), strict=True):
        for row in order:
            router.update(world.queries[row], EXPERTS[row % 3], world.right[row, row % 3], 1.0)
    first, second = (router.predict(world.queries) for router in routers)
    np.testing.assert_allclose(first.quality, second.quality, atol=1e-9)
    np.testing.assert_allclose(first.error, second.error, atol=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [OnlineLinear, OnlineMean])
def test_the_state_goes_through_a_store_as_bytes(kind: type[Online]) -> None:
    records = make_records()
    router = kind().fit(records)
    again = kind.from_bytes(router.to_bytes())
    for each in (router, again):
        each.update(records.queries[0], "sums", 1.0, cost=2.0)
    assert router.fingerprint() == again.fingerprint()


@pytest.mark.parametrize("data", [b"", b"PK", OnlineMean().open(EXPERTS).to_bytes()])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"online-linear|online-mean"):
        OnlineLinear.from_bytes(data)


@pytest.mark.parametrize("kind", [OnlineLinear, OnlineMean])
@pytest.mark.parametrize("decay", [1.0, 0.95])
def test_fitting_on_records_is_learning_their_outcomes_in_turn(
    kind: type[Online], decay: float
) -> None:
    records = make_records(30)
    fitted = kind(decay=decay).fit(records)  # type: ignore[call-arg]
    taught = kind(decay=decay).fit(records.take([0]))  # type: ignore[call-arg]
    if isinstance(taught, OnlineLinear) and isinstance(fitted, OnlineLinear):
        taught._start(records.experts, fitted.axes_)
    else:
        taught.open(records.experts)
    for row, query in enumerate(records.queries):
        for column, expert in enumerate(records.experts):
            taught.update(query, expert, records.quality[row, column], records.cost[row, column])
    first, second = fitted.predict(records.queries), taught.predict(records.queries)
    np.testing.assert_allclose(first.quality, second.quality, atol=1e-6)
    np.testing.assert_allclose(first.cost, second.cost, atol=1e-9)


def test_with_decay_an_expert_that_changes_is_noticed() -> None:
    query = Query.from_text("q", "[1, 0, 0]")
    for make in (lambda d: OnlineMean(d), lambda d: OnlineLinear(decay=d, encoder=Coordinates())):
        found = []
        for decay in (1.0, 0.9):
            router: Online = make(decay).open(EXPERTS)
            for reward in [1.0] * 100 + [0.0] * 30:
                router.update(query, "ann", reward)
            found.append(router.predict([query]).quality[0, 0])
        assert found[0] > 0.5 > 0.2 > found[1]


def test_trust_is_the_weight_of_a_recorded_outcome() -> None:
    records = make_records(12)
    twice = OnlineLinear(trust=2.0).fit(records).predict(records.queries)
    again = tuple(replace(q, id=f"again {q.id}") for q in records.queries)
    doubled = Records((*records.queries, *again), records.experts, np.vstack([records.quality] * 2))
    np.testing.assert_allclose(
        twice.quality, OnlineLinear().fit(doubled).predict(records.queries).quality, atol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "field"),
    [({"expert": "zoe"}, "expert"), ({"reward": 1.5}, "reward"), ({"weight": -1.0}, "weight")],
)
def test_a_senseless_outcome_is_refused(change: dict[str, Any], field: str) -> None:
    outcome: dict[str, Any] = {"expert": "ann", "reward": 1.0, **change}
    with pytest.raises(InputError, match=f"field '{field}'"):
        mean().update(Query.from_text("q", "?"), **outcome)


@pytest.mark.parametrize(
    "make",
    [
        lambda: OnlineMean(decay=0.0).open(EXPERTS),
        lambda: OnlineLinear(dim=0).open(EXPERTS),
        lambda: OnlineLinear(penalty=0.0).open(EXPERTS),
        lambda: Paced(0.0),
        lambda: Paced(1.0, horizon=0),
        lambda: Paced(1.0, rate=0.0),
        lambda: UCB(-1.0),
        lambda: Thompson(scale=-1.0),
        lambda: Paced(1.0).restore({"price": 1.0}),
    ],
)
def test_senseless_settings_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InputError, match="expected"):
        make()


def test_an_outcome_before_anything_is_known_is_refused() -> None:
    with pytest.raises(NotFittedError):
        OnlineMean().update(Query.from_text("q", "?"), "ann", 1.0)
