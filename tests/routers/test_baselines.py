import numpy as np
import pytest

from coterie.errors import InputError, NotFittedError
from coterie.policies import Utility
from coterie.routers.base import Router
from coterie.routers.baselines import Always, BestSingle, Oracle, Random
from coterie.testing import make_records, with_quality
from coterie.types import Query

RECORDS = make_records(24)


def first_choices(router: Router) -> list[str]:
    decisions = Utility().decide(RECORDS.queries, router.predict(RECORDS.queries))
    return [decision.experts[0] for decision in decisions]


def test_best_single_is_the_expert_with_the_highest_mean() -> None:
    assert set(first_choices(BestSingle().fit(RECORDS))) == {"generalist"}
    weak = with_quality(RECORDS, RECORDS.quality * [1, 1, 1, 0.5])
    assert set(first_choices(BestSingle().fit(weak))) <= {"sums", "sorting", "reversal"}


def test_best_single_estimates_means_of_score_and_cost() -> None:
    estimates = BestSingle().fit(RECORDS).predict(RECORDS.queries[:2])
    np.testing.assert_allclose(estimates.quality, [[1 / 3, 1 / 3, 1 / 3, 1 / 2]] * 2)
    assert estimates.cost.tolist() == [[1.0, 1.0, 1.0, 4.0]] * 2


def test_best_single_never_chooses_who_was_not_observed() -> None:
    quality = RECORDS.quality.copy()
    quality[:, 3] = np.nan
    choices = first_choices(BestSingle().fit(with_quality(RECORDS, quality)))
    assert "generalist" not in choices


@pytest.mark.parametrize(("expert", "chosen"), [("sorting", "sorting"), (None, "sums")])
def test_always_is_one_expert_by_name_or_the_first(expert: str | None, chosen: str) -> None:
    assert set(first_choices(Always(expert).fit(RECORDS))) == {chosen}


def test_always_an_expert_without_records_is_refused_and_stays_unfitted() -> None:
    router = Always("zoe")
    with pytest.raises(InputError, match="no records of expert 'zoe'; there are sums"):
        router.fit(RECORDS)
    with pytest.raises(NotFittedError):
        router.predict(RECORDS.queries)


def test_random_gives_everyone_a_fair_share() -> None:
    queries = [Query.from_text(f"q{i}", "?") for i in range(4000)]
    quality = Random().fit(RECORDS).predict(queries).quality
    shares = np.bincount(quality.argmax(axis=1)) / 4000
    np.testing.assert_allclose(shares, 0.25, atol=0.03)


def test_random_depends_on_seed_and_query_alone() -> None:
    first, same, other = (Random(s).fit(RECORDS).predict(RECORDS.queries) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.quality, same.quality)
    assert not np.array_equal(first.quality, other.quality)


def test_the_oracle_knows_every_score() -> None:
    choices = first_choices(Oracle().fit(RECORDS))
    assert choices == list(RECORDS.categories)
    estimates = Oracle().fit(RECORDS).predict(RECORDS.queries[::-1])
    np.testing.assert_array_equal(estimates.quality, RECORDS.quality[::-1])


def test_the_oracle_refuses_queries_it_has_no_record_of() -> None:
    with pytest.raises(InputError, match="no record of query 'new'"):
        Oracle().fit(RECORDS).predict([*RECORDS.queries, Query.from_text("new", "?")])


def test_the_oracle_counts_what_was_not_observed_as_wrong() -> None:
    quality = np.where(np.eye(24, 4, dtype=bool), np.nan, 0.5)
    estimates = Oracle().fit(with_quality(RECORDS, quality)).predict(RECORDS.queries)
    assert estimates.quality[0].tolist() == [0.0, 0.5, 0.5, 0.5]
