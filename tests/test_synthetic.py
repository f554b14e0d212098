import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coterie import synthetic
from coterie.errors import CoterieError, InputError
from coterie.synthetic import World, main, write, write_router_dataset

WORLD = World(experts=50, items=240, skills=3, dim=12)


def test_a_world_depends_on_its_fields_alone() -> None:
    np.testing.assert_array_equal(WORLD.scores(), replace(WORLD).scores())
    assert WORLD.prompts() == replace(WORLD).prompts()
    assert (WORLD.scores() != replace(WORLD, seed=1).scores()).mean() > 0.2


def test_blocks_are_the_scores_in_order() -> None:
    world = World(experts=3, items=synthetic.BLOCK + 7)
    blocks = list(world.blocks())
    assert [len(block) for block in blocks] == [synthetic.BLOCK, 7]
    np.testing.assert_array_equal(np.concatenate(blocks), world.scores())


def test_scores_are_bytes_or_halves_within_the_unit_interval() -> None:
    binary, fractional = WORLD.scores(), replace(WORLD, fractional=True).scores()
    assert (binary.dtype.name, fractional.dtype.name) == ("uint8", "float16")
    assert set(np.unique(binary).tolist()) == {0, 1}
    assert fractional.min() >= 0
    assert fractional.max() <= 1
    assert len(np.unique(fractional)) > 1000


def test_able_experts_score_higher_and_hard_items_lower() -> None:
    world = World(experts=200, items=400, skills=3, dim=4)
    scores = world.scores()
    ability = np.corrcoef(world.abilities.mean(axis=1), scores.mean(axis=0))[0, 1]
    difficulty = np.corrcoef(world.difficulties, scores.mean(axis=1))[0, 1]
    assert ability > 0.9
    assert difficulty < -0.8


def test_vectors_tell_the_skills_apart() -> None:
    world = World(experts=2, items=600, skills=3, dim=64)
    vectors, skill = world.vectors(), world.main_skills
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    centres = np.stack([vectors[:300][skill[:300] == k].mean(axis=0) for k in range(3)])
    found = (vectors[300:] @ centres.T).argmax(axis=1)
    assert (found == skill[300:]).mean() > 0.8


def test_prompts_share_words_where_items_share_a_skill() -> None:
    world = World(experts=2, items=300, skills=3, dim=4)
    words = [set(text.split()[2:]) for text in world.prompts()]
    known = [
        set().union(*(words[i] for i in np.flatnonzero(world.main_skills == k))) for k in range(3)
    ]
    shared = len(known[0] & known[1]) / len(known[0])
    assert len(set(world.prompts())) == 300
    assert all(len(text.split()) == 10 for text in world.prompts())
    assert shared < 1


@pytest.mark.parametrize("field", ["experts", "items", "skills", "dim"])
def test_an_empty_world_is_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"{field}.*at least 1, got 0"):
        replace(WORLD, **{field: 0})  # type: ignore[arg-type]


def test_a_folder_holds_what_the_world_says(tmp_path: Path) -> None:
    write(WORLD, tmp_path / "world")
    folder = tmp_path / "world"
    np.testing.assert_array_equal(np.load(folder / "scores.npy"), WORLD.scores())
    np.testing.assert_array_equal(np.load(folder / "embeddings.npy"), WORLD.vectors())
    np.testing.assert_array_equal(np.load(folder / "categories.npy"), WORLD.main_skills)
    assert tuple(np.load(folder / "prompts.npy")) == WORLD.prompts()
    assert World(**json.loads((folder / "card.json").read_text())) == WORLD


def test_a_world_is_not_written_over_another(tmp_path: Path) -> None:
    write(WORLD, tmp_path)
    with pytest.raises(CoterieError, match="already holds a synthetic world"):
        write(replace(WORLD, seed=1), tmp_path)


def test_the_dataset_has_routerevals_layout(tmp_path: Path) -> None:
    path = tmp_path / "x_router_dataset.pkl"
    write_router_dataset(path, WORLD)
    data = pickle.loads(path.read_bytes())
    assert list(data) == ["easy", "hard", "split_index", "embedding", "prompt"]
    assert (list(data["easy"]), list(data["hard"])) == ([3, 5], [10])
    group = data["easy"][3]["all_strong"]
    train, test = (data["split_index"][f"{part}_indices"] for part in ("train", "test"))
    columns = [WORLD.names.index(name) for name in group["model"]]
    np.testing.assert_array_equal(group["data"]["test_score"], WORLD.scores()[test][:, columns])
    assert group["data"]["train_score"].shape == (len(train), 3)
    assert data["embedding"]["train_embed"].shape == (len(train), 12)
    assert data["prompt"]["test_prompt"].tolist() == [WORLD.prompts()[i] for i in test]


def test_the_module_writes_a_world_from_the_command_line(tmp_path: Path) -> None:
    sizes = ["--experts", "40", "--items", "50", "--dim", "4", "--fractional", "--routereval"]
    main([str(tmp_path), *sizes])
    assert np.load(tmp_path / "scores.npy").shape == (50, 40)
    assert (tmp_path / "synthetic_router_dataset.pkl").exists()
