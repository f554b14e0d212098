import numpy as np
import pytest

from coterie.errors import InputError
from coterie.routers.forest import CategoryForest, Forest
from coterie.testing import make_records, with_quality

NEW = make_records(30, seed=9)


def test_a_forest_learns_who_is_good_at_what() -> None:
    estimates = Forest(trees=16, leaf=3).fit(make_records(90)).predict(NEW.queries)
    chosen = estimates.quality.argmax(axis=1)
    assert NEW.quality[np.arange(30), chosen].mean() > 0.9


def test_a_forest_finds_what_only_the_form_of_the_text_says() -> None:
    records = make_records(120)
    long = np.array([len(q.text) > 40 for q in records.queries], float)
    quality = np.column_stack([long, 1 - long, np.full(120, 0.5), np.full(120, 0.5)])
    estimates = Forest(trees=16, leaf=3).fit(with_quality(records, quality)).predict(NEW.queries)
    wanted = [0 if len(q.text) > 40 else 1 for q in NEW.queries]
    assert (estimates.quality.argmax(axis=1) == wanted).all()


def test_a_given_category_is_read_from_the_query() -> None:
    forest = CategoryForest(trees=8, leaf=3).fit(make_records(60))
    chosen = forest.predict(NEW.queries).quality.argmax(axis=1)
    assert [forest.experts_[j] for j in chosen] == list(NEW.categories)


def test_the_level_of_the_estimates_is_the_questions_difficulty() -> None:
    records = make_records(120)
    hard = np.array([c == "sorting" for c in records.categories])
    quality = np.where(hard[:, None], 0.1, 0.8) * np.ones((120, 4))
    found = Forest(trees=16, leaf=3).fit(with_quality(records, quality)).predict(NEW.queries)
    wanted = np.where(np.array(NEW.categories) == "sorting", 0.1, 0.8)
    assert np.abs(found.quality - wanted[:, None]).max() < 0.1


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"trees": 0}, "trees"), ({"leaf": 1.5}, "leaf"), ({"share": 0.0}, "share")],
)
def test_settings_without_sense_are_refused(settings: dict[str, float], field: str) -> None:
    with pytest.raises(InputError, match=f"'{field}': expected"):
        Forest(**settings).fit(make_records())  # type: ignore[arg-type]
