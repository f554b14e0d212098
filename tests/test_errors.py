from pathlib import Path

import pytest

from coterie import errors
from coterie.errors import (
    ArtifactError,
    ConfigError,
    CoterieError,
    InputError,
    NotFittedError,
)

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]
ERRORS = [kind for kind in KINDS if issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_ours_and_stands_in_the_tree(kind: type[Exception]) -> None:
    assert issubclass(kind, CoterieError)
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ({}, "wrong"),
        ({"path": "a.toml"}, "a.toml: wrong"),
        ({"path": Path("a.jsonl"), "line": 3}, "a.jsonl, line 3: wrong"),
        ({"path": "a", "line": 3, "field": "id"}, "a, line 3, field 'id': wrong"),
        ({"line": 3}, "line 3: wrong"),
        ({"field": "id"}, "field 'id': wrong"),
    ],
)
def test_an_input_error_names_what_it_knows(where: dict[str, object], shown: str) -> None:
    error = InputError("wrong", **where)  # type: ignore[arg-type]
    assert str(error) == shown
    assert (error.path, error.line, error.field) == tuple(
        where.get(k) for k in ("path", "line", "field")
    )


@pytest.mark.parametrize("kind", [ConfigError, ArtifactError])
def test_whoever_expects_bad_input_gets_these_too(kind: type[InputError]) -> None:
    with pytest.raises(InputError, match=r"a\.toml: wrong"):
        raise kind("wrong", path="a.toml")


def test_not_fitted_names_the_class() -> None:
    assert str(NotFittedError("KNN")) == "this KNN is not fitted yet; call fit first"
