"""What single readers do beyond the common promises."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import format_samples as samples
import numpy as np
import pytest
from format_samples import NAMES, SCORES, TEXTS, write_csv, write_json, write_lines

from coterie import formats
from coterie.errors import InputError

NAN = np.nan


def read(path: Path, format: str | None = None, **columns: str) -> Any:
    return formats.read_records(path, format, columns)


# the project's own layout


def test_instances_carry_answers_costs_facts_and_splits(tmp_path: Path) -> None:
    path = samples.instances(tmp_path)
    records = read(path)
    assert records.categories == ("sums", "sums")
    assert records.references == ("4", "4")
    assert records.texts[0, 0] == "4"
    assert records.cost[1, 1] == 0.1
    facts = {"parameters": 7.0, "input_price": 0.2, "description": "a, b"}
    assert records.facts["ann"] == facts
    assert formats.read_split(path) == {"q0": "train", "q1": "train"}


def test_an_instance_without_a_prediction_has_an_empty_answer(tmp_path: Path) -> None:
    path = samples.instances(tmp_path)
    cells = [
        {"instance_id": "q0", "model": "ann", "score": 0.0, "pred": None},
        {"instance_id": "q1", "model": "ann", "score": 1.0, "pred": "5"},
    ]
    samples.write_parquet(path / "records.parquet", cells)
    assert read(path).texts[:, 0].tolist() == ["", "5"]


def test_outputs_are_the_answers_where_there_are_no_predictions(tmp_path: Path) -> None:
    path = samples.instances(tmp_path)
    cells = [{"instance_id": f"q{n}", "model": "ann", "score": 1.0} for n in (0, 1)]
    samples.write_parquet(path / "records.parquet", cells)
    outputs = [{"instance_id": "q1", "model": "ann", "output": "it is 5"}]
    samples.write_parquet(path / "outputs.parquet", outputs)
    assert read(path).texts[:, 0].tolist() == [None, "it is 5"]


def test_an_outcome_of_no_instance_names_its_row(tmp_path: Path) -> None:
    path = samples.instances(tmp_path)
    cells = [{"instance_id": "q7", "model": "ann", "score": 1.0}]
    samples.write_parquet(path / "records.parquet", cells)
    with pytest.raises(InputError, match=r"records\.parquet.*row 1: 'q7' is not in instances"):
        read(path)


# lm-evaluation-harness


def lm_samples(path: Path, **changes: Any) -> list[dict[str, Any]]:
    file = min(path.rglob("samples_*.jsonl"))
    rows = [json.loads(line) | changes for line in file.read_text().splitlines()]
    write_lines(file, rows)
    return rows


def test_the_metric_is_the_first_known_or_the_one_asked_for(tmp_path: Path) -> None:
    path = samples.lm_eval(tmp_path)
    lm_samples(path, acc=0.25, acc_norm=0.75, metrics=["acc", "acc_norm"])
    assert read(path).quality[0, 0] == 1.0
    assert read(path, metric="nonsense,acc_norm,exact_match").quality[0, 0] == 0.75
    with pytest.raises(InputError, match=r"line 1: none of brier.*metrics are acc, acc_norm"):
        read(path, metric="brier")


def test_another_document_is_another_question(tmp_path: Path) -> None:
    path = samples.lm_eval(tmp_path)
    lm_samples(path, doc_hash="f" * 64)
    records = read(path)
    assert len(records) == 4
    assert records.observed.sum() == 4


def test_one_filter_counts_and_a_newer_date_wins(tmp_path: Path) -> None:
    path = samples.lm_eval(tmp_path)
    old = min(path.rglob("samples_*.jsonl"))
    rows = [json.loads(line) for line in old.read_text().splitlines()]
    both = [r | {"filter": f, "exact_match": v} for r in rows for f, v in FILTERS.items()]
    write_lines(old.with_name("samples_sums_2026-02-01T00-00-00.jsonl"), both)
    assert read(path).quality[:, 0].tolist() == [0.5, 0.5]
    with pytest.raises(InputError, match="no filter 'loose'; there are"):
        read(path, filter="loose")


FILTERS = {"flexible-extract": 0.25, "strict-match": 0.5}


def test_choices_and_fields_make_the_text(tmp_path: Path) -> None:
    path = samples.lm_eval(tmp_path)
    for file in sorted(path.rglob("samples_*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        doc = {"question": "Which?", "choices": ["x", "y"], "passage": "Long."}
        write_lines(file, [row | {"doc": doc} for row in rows])
    assert read(path).queries[0].text == "Which?\nA. x\nB. y"
    assert read(path, text="passage").queries[0].text == "Long.\nA. x\nB. y"


def test_a_single_samples_file_is_named_after_its_folder(tmp_path: Path) -> None:
    folder = samples.lm_eval(tmp_path) / "org__ann"
    (folder / "results_2026-01-01T00-00-00.json").unlink()
    assert read(next(folder.glob("samples_*"))).experts == ("org/ann",)


# inspect


def test_inspect_logs_say_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    (tmp_path / "a.eval").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"a\.eval: .*pip install 'coterie\[inspect\]'"):
        read(tmp_path)


# csv


def wide(path: Path) -> Path:
    rows = [
        {"id": n, "question": text, "ann score": SCORES[n, 0], "bob score": "", "ann cost": 0.5}
        for n, text in enumerate(TEXTS)
    ]
    return write_csv(path / "wide.csv", rows)


def test_a_wide_table_takes_a_pattern_or_names(tmp_path: Path) -> None:
    path = wide(tmp_path)
    records = read(path, scores="* score", costs="ann cost")
    assert records.experts == ("ann", "bob")
    assert np.array_equal(records.quality, [[1.0, NAN], [0.0, NAN]], equal_nan=True)
    assert records.cost[0, 0] == 0.5
    assert read(path, scores="ann score, bob score").experts == ("ann score", "bob score")


def test_a_wide_table_with_other_columns_asks_which_are_scores(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"question": "x", "ann": 1, "length": 17}])
    with pytest.raises(InputError, match=r"line 2.*'length'.*say which columns are scores"):
        read(path, "csv")


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", ",")])
def test_separators_are_found_out(name: str, mark: str, tmp_path: Path) -> None:
    lines = ["\ufeffprompt,ann,bob", "one,1,0.5", "two,0,1"]
    (tmp_path / name).write_text("\n".join(lines).replace(",", mark), encoding="utf-8")
    records = read(tmp_path / name)
    assert (records.experts, records.queries[1].text) == (("ann", "bob"), "two")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "line 1: is empty; expected a line of column names"),
        ("a.csv", b"hello\nyou\n", r"several columns, found \['hello'\]; commas, semicolons or t"),
        ("a.csv", b"prompt,a,b\nx,1,0\ncaf\xe9,1,1\n", "line 3: not UTF-8 .* perhaps Latin-1"),
        ("a.csv", b"prompt;a;b\nx;1;0,5\n", "'b': .*'0,5'; write decimals with a point"),
        ("a.csv", b"x" * 200_000, "holds no records"),
        ("a.json", b"[" * 100_000, "line 1: not JSON that can be read"),
        ("a.jsonl", b"x" * 200_000, "line 1: not JSON"),
        ("a.parquet", b"PAR1PAR1PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_table_that_is_none_says_why(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_mapping_is_explained_for_the_command_line_and_for_python(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"qid": "x", "model": "ann", "score": 1}])
    with pytest.raises(InputError, match=r"--map 'query=COLUMN' \(in Python columns={'query': 'CO"):
        read(path)


def test_columns_that_nothing_names_are_told(tmp_path: Path) -> None:
    found = formats.read_unmapped(wide(tmp_path), None, {"scores": "ann score"})
    assert found.guessed == ()
    assert {"bob score", "ann cost"} <= set(found.left_out)
    guessed = write_csv(tmp_path / "b.csv", [{"prompt": "x", "cost": 2, "ann": 1, "bob": 0}])
    assert formats.read_unmapped(guessed) == (("cost",), ("ann", "bob"))
    long = write_csv(tmp_path / "c.csv", [{"id": 1, "model": "ann", "score": 1, "usd": 2}])
    assert formats.read_unmapped(long) == (("usd",), ())


def test_long_scores_are_divided_by_the_best_possible_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"id": 1, "model": "ann", "score": 40}])
    assert read(path, max_score="100").quality.tolist() == [[0.4]]
    with pytest.raises(InputError, match=r"expected a score in \[0, 30\], got 40"):
        read(path, max_score="30")
    with pytest.raises(InputError, match="a number above 0, got '-1'"):
        read(path, max_score="-1")


def test_two_models_beside_a_prompt_are_routellm_only_with_a_sign_of_it(tmp_path: Path) -> None:
    row = {"prompt": "x", "ann": 1, "bob": 0}
    assert formats.detect(write_csv(tmp_path / "two.csv", [row])) == "csv"
    assert read(tmp_path / "two.csv").categories == (None,)
    assert formats.detect(write_csv(tmp_path / "gsm8k_responses.csv", [row])) == "routellm"
    answers = {"ann_response": "3", "bob_response": "4"}
    assert formats.detect(write_csv(tmp_path / "three.csv", [row | answers])) == "routellm"


def test_a_long_table_takes_any_names(tmp_path: Path) -> None:
    rows = [{"qid": 1, "who": "ann", "acc": 0.5, "p": 0.25}, {"qid": 1, "who": "bob", "acc": 1}]
    path = write_csv(tmp_path / "a.csv", [rows[0], rows[1] | {"p": ""}])
    records = read(path, query="qid", expert="who", score="acc", propensity="p")
    assert records.quality.tolist() == [[0.5, 1.0]]
    assert records.propensity[0, 0] == 0.25
    with pytest.raises(InputError, match="no column 'q' for 'query'; there are qid"):
        read(path, query="q")


def test_two_scores_of_one_cell_name_both_lines(tmp_path: Path) -> None:
    row = {"query_id": "q", "expert": "ann", "score": 1}
    path = write_csv(tmp_path / "a.csv", [row, row | {"expert": "bob"}, row])
    message = r"a\.csv, line 4: question 'q' and expert 'ann' already have a score in line 2"
    with pytest.raises(InputError, match=message):
        read(path)


def test_one_id_with_two_texts_names_both_files(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two")):
        row = {"query_id": "q", "expert": name, "score": 1, "text": text}
        write_csv(tmp_path / f"{name}.csv", [row])
    with pytest.raises(InputError, match=r"b\.csv, line 2: question 'q' has another text.*a\.csv"):
        read(tmp_path, "csv")


def test_a_matrix_far_larger_than_its_scores_is_refused(tmp_path: Path) -> None:
    lines = "".join(f"q{n},e{n},1\n" for n in range(6000))
    (tmp_path / "a.csv").write_text("query_id,expert,score\n" + lines)
    with pytest.raises(InputError, match=r"6,000 questions x 6,000 experts .* too large"):
        read(tmp_path / "a.csv")


# other formats


def test_routerbench_unlists_prompts_and_keeps_costs(tmp_path: Path) -> None:
    records = read(samples.routerbench(tmp_path))
    assert records.texts[0, 1] == "4"
    assert records.cost.tolist() == [[0.1, 0.1], [0.1, 0.1]]
    (tmp_path / "wide.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"wide\.pkl: is a pickle.*to_parquet"):
        read(tmp_path / "wide.pkl", "routerbench")


def test_llmrouterbench_refuses_indices_that_mean_other_questions(tmp_path: Path) -> None:
    path = samples.llmrouterbench(tmp_path)
    file = sorted(path.glob("*.json"))[1]
    file.write_text(file.read_text().replace(TEXTS[0], "Another?"))
    with pytest.raises(InputError, match=r"bob.*record 1: question 'sums/test/0' has another text"):
        read(path)


def test_routerarena_leaves_failed_calls_out(tmp_path: Path) -> None:
    path = samples.routerarena(tmp_path)
    rows = [json.loads(line) for line in (path / "ann.jsonl").read_text().splitlines()]
    failed = {"success": False, "evaluation_result": None}
    write_lines(path / "ann.jsonl", [rows[0] | failed, rows[1], rows[1] | {"run_number": 2}])
    records = read(path)
    assert records.observed.tolist() == [[False, True], [True, True]]
    assert records.categories == ("Sums", "Sums")
    assert records.prompt_tokens[1, 0] == 5


def test_embedllm_takes_the_largest_of_repeated_labels(tmp_path: Path) -> None:
    path = samples.embedllm(tmp_path)
    path.write_text(path.read_text() + f"1,0,1,{TEXTS[1]},ann\n")
    assert read(path).quality.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_routereval_joins_groups_by_model_and_refuses_contradictions(tmp_path: Path) -> None:
    path = samples.routereval(tmp_path)
    value = pickle.loads(path.read_bytes())
    other = {"data": dict(value["easy"][3]["all_strong"]["data"]), "model": ["cid", "bob"]}
    value["hard"] = {10: {"all_weak": other}}
    path.write_bytes(pickle.dumps(value))
    assert read(path).experts == ("ann", "bob", "cid")
    assert read(path, group="hard/10/all_weak").experts == ("cid", "bob")
    assert formats.read_split(path) == {"sums/0": "train", "sums/1": "val"}
    other["model"] = ["bob", "cid"]
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(InputError, match="'bob' has other scores than before"):
        read(path)


def test_routereval_leaderboards_join_prompts(tmp_path: Path) -> None:
    scores, prompts = tmp_path / "leaderboard_new.pkl", tmp_path / "prompts.pkl"
    data = {"data": {"sums": {"correctness": SCORES}}, "models": list(NAMES)}
    scores.write_bytes(pickle.dumps(data))
    prompts.write_bytes(pickle.dumps({"sums": np.array(TEXTS)}))
    assert read(scores).queries[1].id == "sums/1"
    assert read(scores, prompts=str(prompts)).queries[1].text == TEXTS[1]


# pairs


def battle(**fields: Any) -> dict[str, Any]:
    return {"model_a": "ann", "model_b": "bob", "prompt": "Who?", **fields}


@pytest.mark.parametrize(
    ("fields", "scores"),
    [
        ({"winner": "model_b"}, [0, 1]),
        ({"winner": "ann"}, [1, 0]),
        ({"winner": "tie (bothbad)"}, [0.5, 0.5]),
        ({"winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}, [0.5, 0.5]),
        ({"pref_b": 0.75}, [0.25, 0.75]),
        ({"annotator1": 2, "annotator2": 2, "annotator3": 0}, [1 / 6, 5 / 6]),
    ],
)
def test_every_way_to_say_who_won(
    fields: dict[str, Any], scores: list[float], tmp_path: Path
) -> None:
    path = write_lines(tmp_path / "a.jsonl", [battle(**fields)])
    assert read(path, "pairs").quality[0] == pytest.approx(scores)


def test_comparisons_of_one_prompt_stay_apart_and_share_a_subject(tmp_path: Path) -> None:
    rows = [
        battle(instance_id="p", winner="tie"),
        battle(instance_id="p", model_b="cid", winner="model_a"),
        battle(instance_id="p", winner="model_a"),
        battle(instance_id="r", prompt="Else?", winner="model_a"),
    ]
    records = read(write_lines(tmp_path / "a.jsonl", rows))
    assert [q.id for q in records.queries] == ["p/ann:bob", "p/ann:cid", "p/ann:bob #2", "r"]
    assert [q.subject for q in records.queries] == ["p", "p", "p", None]
    assert (records.observed.sum(1) == 2).all()


def test_pandalm_as_published(tmp_path: Path) -> None:
    row = {"idx": 0, "motivation_app": "Mail", "cmp_key": "a-7b_b-6.9b", "instruction": "Say hi."}
    row |= {"input": NAN, "response1": "hi", "response2": "ho"}
    row |= {f"annotator{n}": 2 for n in (1, 2, 3)}
    records = read(write_json(tmp_path / "testset.json", [row]))
    assert records.experts == ("a-7b", "b-6.9b")
    assert records.quality.tolist() == [[0, 1]]
    assert records.queries[0].text == "Say hi."
    assert records.texts.tolist() == [["hi", "ho"]]


def test_a_comparison_with_itself_names_its_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [battle(winner="tie"), battle(model_b="ann")])
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: 'ann' is compared with itself"):
        read(path)
