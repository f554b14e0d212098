import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie import features, plugins
from coterie.artifacts import read_artifact, write_artifact
from coterie.errors import ArtifactError, InputError, NotFittedError
from coterie.features import EMBEDDED, MAX_CHARACTERS, Encoder, LexicalEncoder, StaticEncoder

CORPUS = [
    "What is 12 plus 30?",
    "Add 7 and 8.",
    "Sort 4 9 1 in ascending order.",
    "Order 3 2 8 from smallest to largest.",
    "Reverse the word lemon.",
    "Spell kamino backwards.",
    "Evaluate (true and false).",
    "Übersetze „Haus“ 漢字 🙂",
]
ENCODERS: list[Encoder] = [StaticEncoder(), LexicalEncoder(dim=6).fit(CORPUS)]
TEXTS = [*CORPUS, "", "   ", "Add 700 and 81.", "an unseen word", "\ud800 lone", "a\x00b"]
any_encoder = pytest.mark.parametrize("encoder", ENCODERS, ids=lambda e: e.name)


def similarity(encoder: Encoder, one: str, other: str) -> float:
    a, b = encoder.encode([one, other])
    return float(a @ b)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("How do I bake bread?", "A recipe for a cake", "Prove that the series converges"),
        ("Fix this Python function", "Debug my code", "Translate the letter into French"),
        ("Is this contract legally binding?", "Ask a lawyer", "The patient has a fever"),
    ],
)
def test_similar_sentences_are_nearer_than_unlike_ones(text: str, near: str, far: str) -> None:
    encoder = StaticEncoder()
    assert similarity(encoder, text, near) > similarity(encoder, text, far) + 0.1


def test_a_lexical_encoder_sees_shared_wording_and_ignores_the_numbers() -> None:
    encoder = LexicalEncoder(dim=8).fit(CORPUS)
    assert similarity(encoder, "Add 55 and 19.", "Add 70 and 82.") > 0.999
    assert similarity(encoder, "Sort 5 1.", CORPUS[2]) > similarity(encoder, "Sort 5 1.", CORPUS[4])


@any_encoder
def test_a_batch_equals_its_texts_one_by_one(encoder: Encoder) -> None:
    texts = TEXTS * 12  # more than one block
    batch = encoder.encode(texts)
    np.testing.assert_array_equal(batch, np.concatenate([encoder.encode([t]) for t in texts]))


@any_encoder
def test_vectors_have_unit_length_and_an_empty_text_none(encoder: Encoder) -> None:
    vectors = encoder.encode([*CORPUS, "", " \n"])
    assert vectors.shape == (len(CORPUS) + 2, encoder.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors[:-2], axis=1), 1, atol=1e-5)
    assert not vectors[-2:].any()


@any_encoder
def test_no_texts_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dim)


@any_encoder
def test_one_text_in_place_of_a_list_is_refused(encoder: Encoder) -> None:
    with pytest.raises(TypeError, match=r"got one: 'Add 2'; pass \[text\]"):
        encoder.encode("Add 2")


@any_encoder
@given(texts=st.lists(st.text(st.characters(exclude_categories=())), max_size=4))
def test_any_text_has_finite_values(encoder: Encoder, texts: list[str]) -> None:
    vectors = encoder.encode(texts)
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.isfinite(vectors).all()
    assert all(abs(length - 1) < 1e-4 or length == 0 for length in lengths)


@any_encoder
def test_ten_megabytes_are_read_at_both_ends_only(encoder: Encoder) -> None:
    half = MAX_CHARACTERS // 2
    text = "add 12 " * 1_500_000 + "reverse the word"
    start = time.perf_counter()
    vectors = encoder.encode([text, f"{text[:half]} {text[-half:]}", "ab" * 5_000_000])
    assert time.perf_counter() - start < 2
    np.testing.assert_array_equal(vectors[0], vectors[1])


@any_encoder
def test_a_saved_encoder_gives_identical_vectors(encoder: Encoder, tmp_path: Path) -> None:
    write_artifact(tmp_path, "encoder", *encoder.to_arrays())
    loaded = type(encoder).from_arrays(*read_artifact(tmp_path, "encoder"))
    assert loaded.fingerprint() == encoder.fingerprint()
    np.testing.assert_array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))


@any_encoder
def test_an_encoder_is_found_by_its_name(encoder: Encoder) -> None:
    assert plugins.load("encoders", encoder.name) is type(encoder)


def test_fingerprints_differ_between_encoders_and_fits() -> None:
    encoders = [
        StaticEncoder(),
        LexicalEncoder(dim=4).fit(CORPUS),
        LexicalEncoder(dim=5).fit(CORPUS),
        LexicalEncoder(dim=4, buckets=999).fit(CORPUS),
        LexicalEncoder(dim=4).fit(CORPUS[1:]),
    ]
    assert len({encoder.fingerprint() for encoder in encoders}) == len(encoders)


def test_equal_fits_have_equal_fingerprints_in_every_process() -> None:
    code = (
        "import sys, json; from coterie.features import LexicalEncoder as L;"
        "print(L(dim=4).fit(json.loads(sys.argv[1])).fingerprint())"
    )
    command = [sys.executable, "-c", code, json.dumps(CORPUS)]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert LexicalEncoder(dim=4).fit(CORPUS).fingerprint() == other


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_tiny_corpus_is_enough(count: int) -> None:
    encoder = LexicalEncoder(dim=64).fit(CORPUS[:count])
    vectors = encoder.encode(CORPUS[:count])
    assert vectors.shape == (count, 64)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(count), atol=0.4)


def test_texts_that_are_all_alike_or_empty_can_be_fitted() -> None:
    alike = LexicalEncoder(dim=8).fit(["same words"] * 200)
    np.testing.assert_allclose(np.linalg.norm(alike.encode(["same words"])), 1, atol=1e-5)
    assert not LexicalEncoder(dim=8).fit(["", " "]).encode(["anything"]).any()


def test_directions_are_those_of_an_exact_decomposition() -> None:
    matrix = np.random.default_rng(1).standard_normal((40, 30)) * 0.8 ** np.arange(30)
    _, _, right = np.linalg.svd(matrix, full_matrices=False)
    found = features._directions(matrix, 5)
    np.testing.assert_allclose(np.abs((right[:5] * found.T).sum(axis=1)), 1, atol=1e-6)
    assert (found[np.abs(found).argmax(axis=0), range(5)] > 0).all()


def test_a_text_with_nothing_known_has_no_direction() -> None:
    assert not LexicalEncoder(dim=4).fit(["abc def"]).encode(["漢字"]).any()


def test_what_is_repeated_often_counts_by_its_logarithm() -> None:
    encoder = LexicalEncoder(dim=2).fit(["ab cd", "ef gh"])
    once, often, more = (encoder.encode(["ef " * n + "ab"])[0] for n in (1, 500, 1000))
    assert abs(often[0]) != abs(once[0])
    assert np.allclose(often, more, atol=0.02)


def test_an_unfitted_lexical_encoder_says_so() -> None:
    with pytest.raises(NotFittedError, match="LexicalEncoder is not fitted"):
        LexicalEncoder().encode(["text"])
    with pytest.raises(NotFittedError):
        LexicalEncoder().fingerprint()


def test_a_lexical_encoder_cannot_be_fitted_on_nothing() -> None:
    with pytest.raises(InputError, match="at least one text to fit, got none"):
        LexicalEncoder().fit([])


def test_fitting_a_static_encoder_changes_nothing() -> None:
    encoder = StaticEncoder()
    assert encoder.fit(CORPUS) is encoder


def test_the_weights_are_those_of_their_card() -> None:
    card = json.loads((EMBEDDED / "card.json").read_text())
    digest = hashlib.sha256((EMBEDDED / "static.npz").read_bytes()).hexdigest()
    assert card["sha256"]["static.npz"] == digest == StaticEncoder().fingerprint()
    assert card["bytes"]["static.npz"] == (EMBEDDED / "static.npz").stat().st_size
    assert card["source"]["sha256"]["model.safetensors"].startswith("53aa51172d142c89")


def test_the_notice_names_source_and_weights_by_their_hashes() -> None:
    card = json.loads((EMBEDDED / "card.json").read_text())
    notice = (Path(__file__).parents[1] / "NOTICE").read_text()
    assert card["sha256"]["static.npz"] in notice
    assert card["source"]["sha256"]["model.safetensors"] in notice


def test_damaged_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = shutil.copytree(EMBEDDED, tmp_path / "encoder")
    weights = bytearray((folder / "static.npz").read_bytes())
    weights[1000] ^= 1
    (folder / "static.npz").write_bytes(weights)
    with pytest.raises(ArtifactError, match=r"static.npz: damaged: .* pip install --force-rein"):
        features._static_weights(folder)


def test_missing_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"static.npz: cannot be read.* pip install --force"):
        features._static_weights(tmp_path)


def test_a_router_made_with_other_weights_must_be_fitted_again() -> None:
    with pytest.raises(ArtifactError, match=r"static encoder 0123.*fit it again"):
        StaticEncoder.from_arrays({"sha256": "0123"}, {})


def test_importing_features_imports_neither_tokenizers_nor_scipy() -> None:
    code = (
        "import sys, coterie.features; sys.exit(bool({'tokenizers', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
