import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from coterie.artifacts import HEADER
from coterie.errors import ArtifactError, InputError, NotFittedError
from coterie.features import LexicalEncoder
from coterie.records import Records
from coterie.routers.base import Router, load_router, make_encoder, mean_or, require_rows, spread
from coterie.routers.baselines import BestSingle
from coterie.routers.linear import Linear
from coterie.routers.neighbors import KNN
from coterie.testing import make_records
from coterie.types import Estimates, Query

RECORDS = make_records(12)


class Unregistered(BestSingle):
    name = "no-such-router"


class Odd(Router):
    """Learns things that JSON does not know."""

    name = "odd"

    def fit(self, records: Records) -> Self:
        self.experts_ = records.experts
        self.odd_ = {1, 2}
        return self

    def predict(self, queries: Sequence[Query]) -> Estimates:
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    KNN(k=3).fit(RECORDS).save(tmp_path / "router")
    return tmp_path / "router"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that must not be imported, in the working directory."""
    (tmp_path / "my_trap.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_trap:Router"
    assert "my_trap" not in sys.modules


def edit(folder: Path, **params: Any) -> None:
    path = folder / HEADER
    header = json.loads(path.read_text())
    header["params"] |= params
    path.write_text(json.dumps(header))


def test_any_registered_router_is_loaded_by_its_folder(folder: Path) -> None:
    router = load_router(folder)
    assert isinstance(router, KNN)
    assert (router.k, router.experts_) == (3, RECORDS.experts)


def test_a_router_of_another_kind_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="a router of kind 'knn', expected 'linear'"):
        Linear.load(folder)


def test_an_artifact_never_imports_what_it_names(folder: Path, trap: str) -> None:
    edit(folder, router=trap)
    with pytest.raises(ArtifactError, match="accepted only from a local user"):
        load_router(folder)


def test_an_artifact_never_imports_the_encoder_it_names(folder: Path, trap: str) -> None:
    edit(folder, encoders={"encoder_": {"name": trap, "params": {}}})
    with pytest.raises(ArtifactError, match="accepted only from a local user"):
        load_router(folder)


def test_a_router_of_a_package_that_is_missing_says_so(tmp_path: Path) -> None:
    Unregistered().fit(RECORDS).save(tmp_path / "r")
    with pytest.raises(ArtifactError, match=r"no router called 'no-such-router'.*install"):
        load_router(tmp_path / "r")


@pytest.mark.parametrize(
    "params",
    [
        {"settings": {"k": 4, "shrinkage": 1.0, "encoder": "static"}},
        {"settings": {"kk": 3}},
        {"settings": []},
        {"learnt": None},
        {"learnt": {}},
        {"learnt": {"experts_": ["a"], "texts_": []}},
        {"encoders": "static"},
        {"encoders": {"encoder_": {"name": "lexical", "params": {}}}},
        {"encoders": {"encoder_": {"name": "static", "params": {"sha256": "00"}}}},
        {"encoders": None},
        {"fingerprint": "0" * 16},
    ],
)
def test_an_edited_header_is_refused_with_the_folder(folder: Path, params: dict[str, Any]) -> None:
    edit(folder, **params)
    with pytest.raises(ArtifactError, match="fit it again") as caught:
        load_router(folder)
    assert Path(str(caught.value.path)) == folder


def test_arrays_of_another_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    KNN(k=3).fit(make_records(9)).save(tmp_path / "other")
    for path in folder.glob("arrays-*"):
        path.unlink()
    (source,) = (tmp_path / "other").glob("arrays-*")
    shutil.copy(source, folder)
    with pytest.raises(ArtifactError, match="the arrays are missing"):
        load_router(folder)


def test_learnt_arrays_with_a_fitting_hash_but_other_values_are_refused(folder: Path) -> None:
    KNN(k=3).fit(make_records(12, seed=1)).save(folder.parent / "other")
    header = json.loads((folder / HEADER).read_text())
    (source,) = (folder.parent / "other").glob("arrays-*")
    shutil.copy(source, folder)
    header["arrays"]["sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    (folder / HEADER).write_text(json.dumps(header))
    with pytest.raises(ArtifactError, match="not what was saved"):
        load_router(folder)


def test_saving_again_replaces_what_was_there(folder: Path) -> None:
    Linear().fit(RECORDS).save(folder)
    assert isinstance(load_router(folder), Linear)
    assert len(list(folder.iterdir())) == 2


def test_what_json_does_not_know_is_refused_when_saving(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        Odd().fit(RECORDS).save(tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_fingerprint_tells_settings_records_and_encoders_apart() -> None:
    routers = [
        KNN(k=3).fit(RECORDS),
        KNN(k=4).fit(RECORDS),
        KNN(k=3).fit(make_records(12, seed=1)),
        KNN(k=3, encoder="lexical").fit(RECORDS),
    ]
    assert len({router.fingerprint() for router in routers}) == 4
    assert routers[0].fingerprint() == KNN(k=3).fit(RECORDS).fingerprint()


def test_two_routers_may_be_given_one_encoder() -> None:
    encoder = LexicalEncoder(dim=8)
    first = KNN(k=1, encoder=encoder).fit(RECORDS)
    before = first.predict(RECORDS.queries).quality
    KNN(k=1, encoder=encoder).fit(make_records(5, seed=9))
    np.testing.assert_array_equal(first.predict(RECORDS.queries).quality, before)
    assert not hasattr(encoder, "weights_")


def test_an_encoder_goes_by_its_name() -> None:
    assert make_encoder("static").name == "static"
    with pytest.raises(NotFittedError):
        make_encoder("lexical").encode(["text"])


def test_means_are_taken_over_what_was_observed() -> None:
    values = np.array([[1.0, np.nan, np.nan], [0.0, 0.5, np.nan]])
    assert mean_or(values, 0.25).tolist() == [0.5, 0.5, 0.25]
    assert mean_or(np.empty((0, 2)), np.array([0.1, 0.2])).tolist() == [0.1, 0.2]


def test_a_row_is_spread_over_the_queries() -> None:
    assert spread(np.array([1.0, 2.0]), RECORDS.queries[:2]).tolist() == [[1.0, 2.0]] * 2
    assert spread(np.array([1.0, 2.0]), []).shape == (0, 2)


def test_records_without_rows_are_refused_with_a_remedy() -> None:
    with pytest.raises(InputError, match="hold no scores; profile a pool first"):
        require_rows(RECORDS.take([]))
