import builtins
import copyreg
import functools
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coterie.errors import InputError
from coterie.formats.unpickle import load


class Calls:
    """Pickles as a call of the function with the arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def saved(path: Path, value: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_in_plain_containers_come_back_equal(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "floats": np.arange(6.0).reshape(2, 3),
        "narrow": np.arange(6, dtype=np.float32).reshape(3, 2).T,
        "whole": np.array([[1, -2]], dtype=">i8"),
        "truths": np.array([True, False]),
        "texts": np.array(["a", "äöü"]),
        "objects": np.array(["a", None, 2], object),
        "empty": np.zeros((0, 3)),
    }
    value = {"arrays": arrays, "plain": [1, 2.5, "x", None, True, (1, 2)], 3: np.float64(0.5)}
    found = load(saved(tmp_path / "a.pkl", value, protocol))
    for name, array in arrays.items():
        assert np.array_equal(found["arrays"][name], array)
        assert found["arrays"][name].dtype == array.dtype
    assert found["plain"] == [1, 2.5, "x", None, True, [1, 2]]
    assert found[3] == 0.5


def bombs(canary: Path) -> dict[str, Any]:
    write = f"open({str(canary)!r}, 'w').close()"
    inside = np.array([Calls(os.system, f"touch {canary}"), 1], object)
    return {
        "posix.system": Calls(os.system, f"touch {canary}"),
        "builtins.eval": Calls(builtins.eval, write),
        "builtins.exec": Calls(builtins.exec, write),
        "builtins.getattr": Calls(getattr, "a", "upper"),
        "functools.partial": Calls(functools.partial, os.system, f"touch {canary}"),
        "copyreg._reconstructor": Calls(copyreg.__dict__["_reconstructor"], dict, object, None),
        "_codecs.encode": Calls(__import__("_codecs").encode, "a", "latin1"),
        "posix.system ": inside,
        "numpy.load": Calls(np.load, str(canary)),
        "numpy.fromfile": Calls(np.fromfile, str(canary)),
        "collections.OrderedDict": __import__("collections").OrderedDict(a=1),
    }


@pytest.mark.parametrize("name", bombs(Path("x")))
def test_a_symbol_that_is_not_listed_is_refused_by_name_and_never_run(
    name: str, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    path = saved(tmp_path / "bomb.pkl", {"easy": bombs(canary)[name]})
    module, _, symbol = name.strip().rpartition(".")
    with pytest.raises(InputError, match=rf"bomb\.pkl: .*{module}.*{symbol}, which is refused"):
        load(path)
    assert not canary.exists()


def test_a_data_frame_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "frame.pkl"
    path.write_bytes(b"\x80\x04cpandas.core.frame\nDataFrame\n)R.")
    with pytest.raises(InputError, match=r"pandas\.core\.frame\.DataFrame.*to_parquet"):
        load(path)


RAW = {
    "memo number": b"\x80\x04]r\xff\xff\xff\x7f.",
    "BYTEARRAY8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "INST": b"(ios\nsystem\n.",
    "NEWOBJ": b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)\x81.",
    "EXT1": b"\x80\x04\x82\x01.",
    "PERSID": b"Pabc\n.",
    "numpy.ndarray.__class__": b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
    "symbol where data": b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93.",
    "nested": b"\x80\x04" + b"]" * 500 + b"a" * 499 + b".",
    "plain data": b"\x80\x04\x80\x04.",
}


@pytest.mark.parametrize("what", RAW)
def test_opcodes_that_data_does_not_need_are_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "raw.pkl"
    path.write_bytes(RAW[what])
    hint = "plain data" if what == "BYTEARRAY8" else what
    with pytest.raises(InputError, match=hint):
        load(path)


def array_with(state: Any) -> bytes:
    """A pickled array whose state is replaced."""
    head = pickle.dumps(np.zeros(1), 3).split(b"(K\x01", 1)[0]
    return head + pickle.dumps(state, 3)[2:-1] + b"b."


STATES = [
    (1, (1 << 40,), None, False, b"12345678"),
    (1, (-1,), None, False, b""),
    (1, (1,), "f8", False, b"12345678"),
    (1, "ab", None, False, b""),
    (1, (1,), None, False, "12345678"),
    (1,),
    ["state"],
]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_an_array_state_that_numpy_would_trust_is_refused(state: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.pkl"
    path.write_bytes(array_with(state))
    with pytest.raises(InputError, match=r"state\.pkl: .*(refused|not what numpy writes)"):
        load(path)


@pytest.mark.parametrize("code", ["V8", "f8,O", "M8", "c16", "O8x", "f99999999999999"])
def test_array_types_beyond_numbers_and_texts_are_refused(code: str, tmp_path: Path) -> None:
    path = tmp_path / "type.pkl"
    payload = pickle.dumps(code, 4)[2:-1].split(b"\x94")[0]
    payload = payload[9:] if payload[:1] == b"\x95" else payload
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93" + payload + b"\x85R.")
    with pytest.raises(InputError, match="refused"):
        load(path)


def test_containers_that_repeat_themselves_are_built_once(tmp_path: Path) -> None:
    value: list[Any] = ["laugh"]
    for _ in range(60):
        value = [value, value]
    found = load(saved(tmp_path / "laughs.pkl", value))
    assert found[0] is found[1]


def test_a_list_inside_itself_is_refused(tmp_path: Path) -> None:
    value: list[Any] = []
    value += [value, value]
    with pytest.raises(InputError, match="nested more than"):
        load(saved(tmp_path / "self.pkl", value))


def test_one_list_behind_many_arrays_of_objects_is_refused(tmp_path: Path) -> None:
    reduced: Any = np.array(["a"] * 1000, object).__reduce__()
    rebuild, arguments, shared = reduced[0], reduced[1], reduced[2][4]

    class Array:
        def __reduce__(self) -> Any:
            return rebuild, arguments, (1, (1000,), np.dtype(object), False, shared)

    honest = [np.array(["a"] * 1000, object) for _ in range(50)]
    assert len(load(saved(tmp_path / "honest.pkl", honest))) == 50
    with pytest.raises(InputError, match="more objects than the file has bytes"):
        load(saved(tmp_path / "many.pkl", [Array() for _ in range(50)]))


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(at=st.integers(0, 400), noise=st.binary(min_size=1, max_size=4), cut=st.booleans())
def test_broken_pickles_are_an_error_or_plain_data(
    at: int, noise: bytes, cut: bool, tmp_path: Path
) -> None:
    content = pickle.dumps({"a": np.arange(3.0), "b": [np.array(["x", None], object)]}, 4)
    at %= len(content)
    path = tmp_path / "broken.pkl"
    path.write_bytes(content[:at] + (b"" if cut else noise + content[at + len(noise) :]))
    refusal = str(path)
    try:
        load(path)
    except InputError as error:
        refusal = str(error)
    assert str(path) in refusal
