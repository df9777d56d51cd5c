"""Tables to splits: columns, tasks, hygiene, and complaints that say where."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config.data import DataConfig, RecastConfig, Source
from finetune.core import model_folder  # noqa: F401  (imported first: it must not need what follows)
from finetune.core.errors import DataError
from finetune.core.labels import LabelSpace
from finetune.core.tables.files import read_table, write_table
from finetune.data.load import load_rows, load_splits
from finetune.data.nli_pairs import recast, spelled_out

pytestmark = pytest.mark.fast


def table(rows: int = 40) -> list[dict[str, Any]]:
    return [
        {"text": f"row {index} is {'good' if index % 2 else 'bad'}", "label": "pn"[index % 2]} for index in range(rows)
    ]


def splits(data: Any, **config: Any) -> Any:
    return load_splits(DataConfig(**config), seed=1, data=data)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": 'NA, "quoted"\nline', "label": "None"}, {"text": "00123", "label": "é"}]
    write_table(tmp_path / f"t{suffix}", rows)
    assert read_table(tmp_path / f"t{suffix}").rows == rows


def test_encodings_and_separators_are_found_and_reported(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text;label\ncafé;x\n".encode("cp1252"))
    result = read_table(tmp_path / "a.csv")
    assert result.rows == [{"text": "café", "label": "x"}]
    assert result.note == "encoding Windows-1252, separator ';'"
    (tmp_path / "b.csv").write_bytes("text,label\ncafé,x\n".encode("utf-16"))
    assert read_table(tmp_path / "b.csv").rows == result.rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "empty.csv: the file is empty"),
        ("head.csv", b"text,label\n", "the table has no rows"),
        ("odd.csv", b"text,label\na,b\nc,d,e\n", "not a well-formed table.*line 3"),
        ("first.csv", b"text,label\na,b,c\n", "not a well-formed table"),
        ("odd.jsonl", b'{"text": "a"}\n{oops\n', "odd.jsonl, row 2: this line is not JSON"),
        ("odd.parquet", b"no", "not a readable Parquet file"),
        ("bin.csv", b"\x00\xff\x81", "not a text file"),
        ("x.xlsx", b"x", "not a readable Excel workbook"),
        ("x.ods", b"x", "unknown table format '.ods': use one of .csv"),
    ],
)
def test_an_unreadable_file_is_refused_in_one_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)


def test_the_same_rows_in_any_form_give_the_same_splits(tmp_path: Path) -> None:
    import datasets
    import pandas as pd

    rows = table()
    write_table(tmp_path / "t.csv", rows)
    expected = splits(rows).validation.texts
    for data in (pd.DataFrame(rows), datasets.Dataset.from_list(rows), {"train": rows}):
        assert splits(data).validation.texts == expected
    assert load_splits(DataConfig(train=str(tmp_path / "t.csv")), seed=1).validation.texts == expected  # type: ignore[arg-type]


def test_given_splits_are_used() -> None:
    import datasets

    whole = datasets.DatasetDict(
        train=datasets.Dataset.from_list(table(20)),
        validation=datasets.Dataset.from_list(
            [{"text": "other good", "label": "p"}, {"text": "other bad", "label": "n"}]
        ),
        test=datasets.Dataset.from_list([{"text": "third", "label": "p"}]),
    )
    result = splits(whole)
    assert (len(result.train), result.validation.texts, result.tests["test"].texts) == (
        20,
        ["other good", "other bad"],
        ["third"],
    )


def test_class_names_of_a_dataset_replace_its_ids() -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(20)], "label": [0, 1] * 10}, features=features)
    assert splits(data).labels.names == ("no", "yes")


def test_the_split_is_stratified_and_follows_the_seed() -> None:
    rows = [{"text": f"t{index}", "label": "rare" if index % 10 == 0 else "common"} for index in range(200)]
    result = splits(rows)
    assert result.validation.values.count("rare") == 2
    assert load_splits(DataConfig(), seed=1, data=rows).validation.texts == result.validation.texts
    assert load_splits(DataConfig(), seed=2, data=rows).validation.texts != result.validation.texts


def test_every_dropped_row_is_counted_and_none_is_on_both_sides() -> None:
    data = {
        "train": [
            *table(20),
            {"text": " ", "label": "p"},
            table(1)[0],
            {"text": "held", "label": "p"},
            {"text": "x", "label": None},
        ],
        "validation": [{"text": "held", "label": "p"}, {"text": "held too", "label": "n"}],
    }
    result = splits(data)
    counts = {
        key: result.counts[key] for key in ("empty_texts", "duplicates", "also_in_evaluation", "empty_labels", "train")
    }
    assert counts == {"empty_texts": 1, "duplicates": 1, "also_in_evaluation": 1, "empty_labels": 1, "train": 20}
    assert not set(result.train.texts) & set(result.validation.texts)


def test_nothing_dropped_is_counted_as_nothing() -> None:
    counts = splits(table(20)).counts
    assert counts == {
        "rows_read": 20,
        "left_out": 0,
        "repeated_headers": 0,
        "empty_texts": 0,
        "empty_labels": 0,
        "duplicates": 0,
        "conflicting_labels": 0,
        "evaluation_duplicates": 0,
        "also_in_evaluation": 0,
        "train": 18,
        "validation": 2,
    }


def test_texts_with_two_labels_are_dropped_from_both_splits_and_counted() -> None:
    conflicting = [{"text": "torn", "label": "p"}, {"text": "torn ", "label": "n"}]
    result = splits([*table(40), *conflicting])
    assert result.counts["conflicting_labels"] == 2
    assert "torn" not in [text.strip() for text in result.train.texts + result.validation.texts]
    across = splits(
        {"train": [*table(20), conflicting[0]], "validation": [conflicting[1], {"text": "other", "label": "p"}]}
    )
    assert (across.counts["conflicting_labels"], across.validation.texts) == (2, ["other"])
    with pytest.raises(DataError, match="every text has different labels"):
        splits(conflicting)


def test_texts_with_two_sets_of_labels_are_kept_on_one_side() -> None:
    rows = [{"text": f"t{index // 2}", "labels": ["a"] if index % 2 else ["a", "b"]} for index in range(200)]
    result = splits(rows)
    assert result.counts["conflicting_labels"] == 0
    assert len(result.validation) == 20
    assert not set(result.train.texts) & set(result.validation.texts)


@pytest.mark.parametrize("form", ["single", "several", "number"])
def test_no_group_is_on_both_sides_and_the_shares_stay(form: str) -> None:
    rows = []
    for index in range(300):
        rare = index % 5 == 0
        label = {"single": "rare" if rare else "common", "several": ["c", "r"] if rare else ["c"]}.get(form, index / 3)
        rows.append({"text": f"t{index}", "label": label, "author": f"a{index // 3 % 40}"})
    result = splits(rows, group="author")
    sides = [set(rows.groups or ()) for rows in (result.train, result.validation)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert 20 <= len(result.validation) <= 40
    if form == "single":
        assert 0.1 < result.validation.values.count("rare") / len(result.validation) < 0.3
    again = load_splits(DataConfig(group="author"), seed=0, data=rows)
    assert again.validation.texts == load_splits(DataConfig(group="author"), seed=0, data=rows).validation.texts


def test_a_group_of_a_given_validation_split_is_not_trained_on() -> None:
    train = [{"text": f"t{i}", "label": "pn"[i % 2], "by": f"a{i % 4}"} for i in range(20)]
    result = splits({"train": train, "validation": [{"text": "v", "label": "p", "by": "a3"}]}, group="by")
    assert (result.counts["group_in_evaluation"], len(result.train)) == (5, 15)
    assert "a3" not in (result.train.groups or ())


def test_rows_without_a_group_are_groups_of_their_own_and_one_group_only_is_refused() -> None:
    rows = [{"text": f"t{i}", "label": "pn"[i % 2], "by": ""} for i in range(40)]
    assert len(splits(rows, group="by").validation) == 4
    with pytest.raises(DataError, match="all rows are in one group, 'x'"):
        splits([row | {"by": "x"} for row in rows], group="by")
    with pytest.raises(DataError, match=r"there is no column 'writer' \(--group\); there are: text, label, by"):
        splits(rows, group="writer")


@pytest.mark.parametrize(
    ("cells", "task"),
    [
        (["a", "b"], "binary"),
        (["a", "b", "c"], "multiclass"),
        ([["a"], ["a", "b"]], "multi_label"),
        (['["a"]', '["a", "b"]'], "multi_label"),
        ([0.5, 1.5], "regression"),
        (["0.5", "2"], "regression"),
        ([1, 2], "binary"),
    ],
)
def test_the_task_follows_from_the_label_column(cells: list[Any], task: str) -> None:
    rows = [{"text": f"t{index}", "label": cells[index % len(cells)]} for index in range(40)]
    assert splits(rows).labels.task == task


def test_many_whole_numbers_make_a_regression_and_the_task_can_be_overridden() -> None:
    rows = [{"text": f"t{index}", "label": index} for index in range(60)]
    assert splits(rows).labels.task == "regression"
    rows = [{"text": f"t{index}", "label": index % 5} for index in range(60)]
    assert splits(rows).labels.names == ("0", "1", "2", "3", "4")
    assert splits(rows, task="regression").labels.task == "regression"


def test_separated_labels_in_a_cell_are_several_labels() -> None:
    rows = [{"text": f"t{index}", "label": "red|blue" if index % 2 else "red"} for index in range(40)]
    assert splits(rows, task="multi-label").labels.names == ("blue", "red")


def test_label_lists_in_a_frame_may_be_arrays() -> None:
    import numpy as np
    import pandas as pd

    cells = [np.array(["a", "b"], dtype=object), np.array(["b"], dtype=object)] * 10
    frame = pd.DataFrame({"text": [f"t{index}" for index in range(20)], "labels": cells})
    splits = load_splits(DataConfig(), seed=0, data=frame)
    assert (splits.labels.task, splits.labels.names) == ("multi_label", ("a", "b"))
    assert sorted(splits.train.values + splits.validation.values) == [["a", "b"]] * 10 + [["b"]] * 10


def test_pairs_are_found_by_their_usual_names() -> None:
    rows = [{"premise": f"p{i}", "hypothesis": f"h{i}", "label": "ab"[i % 2]} for i in range(20)]
    assert splits(rows).train.pairs is not None


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        ([{"a": "x", "b": "y", "c": "z"}], {}, "the text column cannot be detected.*--text; there are: a, b, c"),
        (table(), {"label": "lable"}, "no column 'lable' .*there are: text, label"),
        ([{"text": f"t{i}", "label": "x"} for i in range(9)], {}, "only 'x'"),
        (
            [{"text": f"t{i}", "label": [1, "one"][i % 2]} for i in range(9)],
            {},
            "numbers in some rows .*words in others",
        ),
        ([{"text": "", "label": "x"}], {}, "no row has both"),
        (
            [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(9)],
            {"task": "regression"},
            "row 1.*'a' is not a number",
        ),
    ],
)
def test_unusable_rows_are_refused_in_one_sentence(rows: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        splits(rows, **config)
    assert "\n" not in str(caught.value)


def test_a_label_unseen_in_training_is_refused_with_its_row() -> None:
    data = {"train": table(), "validation": [{"text": "v", "label": "p"}, {"text": "w", "label": "new"}]}
    with pytest.raises(DataError, match="row 2: label 'new' was not seen in training"):
        splits(data)
    with pytest.raises(DataError, match="row 1: label 'new'"):
        load_rows([{"text": "w", "label": "new"}], DataConfig(), LabelSpace("binary", ("n", "p")))


def test_rows_holdout_are_reported_by_number_and_never_trained_on(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", table(50))
    source = Source(path=str(tmp_path / "t.csv"), holdout=10, rows=20)
    result = load_splits(DataConfig(train=(source,)), seed=3)
    [held] = result.tests.values()
    assert len(held) == 10
    assert [table(50)[number - 1]["text"] for number in held.numbers] == held.texts
    assert len(result.train) + len(result.validation) == 20
    assert not set(held.texts) & {*result.train.texts, *result.validation.texts}


def test_keep_and_drop_choose_rows_by_value(tmp_path: Path) -> None:
    rows = [row | {"source": "abc"[index % 3]} for index, row in enumerate(table(60))]
    write_table(tmp_path / "t.jsonl", rows)
    source = Source(path=str(tmp_path / "t.jsonl"), keep={"source": ("a", "b")}, drop={"source": ("b",)})
    result = load_splits(DataConfig(train=(source,)), seed=1)
    assert result.counts["left_out"] == 40


def test_recast_rows_entail_their_own_label_and_contradict_another() -> None:
    config = RecastConfig(templates=("about {}.",), negatives=2)
    rows = recast(["t0", "t1"], ["book_flight", "PlayMusic"], config, seed=0)
    assert [(index, verdict) for index, _, verdict in rows] == [
        (0, "entailment"),
        (0, "contradiction"),
        (1, "entailment"),
        (1, "contradiction"),
    ]
    assert rows[0][1] == "about book flight."
    assert rows[1][1] == "about play music."
    several = recast(["t"] * 2, [["joy", "love"], ["anger"]], RecastConfig(templates=("{}",)), seed=0)
    assert {several[0][1], several[1][1]} <= {"joy", "love", "anger"}
    assert (several[0][1] in ("joy", "love"), several[1][1]) == (True, "anger")


def test_labels_are_spelled_out_as_words() -> None:
    assert [spelled_out(name) for name in ("book_flight", "AddToPlaylist", "visual-studio", "joy")] == [
        "book flight",
        "add to playlist",
        "visual studio",
        "joy",
    ]


def test_numbers_for_names_are_translated(tmp_path: Path) -> None:
    names = ("entailment", "neutral", "contradiction")
    rows = [{"premise": f"p{i}", "hypothesis": "h", "label": i % 3} for i in range(60)]
    result = splits(rows, label_names=names)
    assert result.labels.names == names
    assert result.labels.nli is not None
    (tmp_path / "x.jsonl").write_text(json.dumps({"premise": "p", "hypothesis": "h", "label": 3}))
    with pytest.raises(DataError, match="neither one of entailment"):
        load_rows(str(tmp_path / "x.jsonl"), DataConfig(label_names=names), result.labels)


def test_a_folder_of_tables_is_one_table_whose_rows_are_numbered_through(tmp_path: Path) -> None:
    write_table(tmp_path / "one.csv", table()[:20])
    write_table(
        tmp_path / "two.jsonl", [*table()[20:], {"text": "only here", "label": "q"}, {"text": "and here", "label": "q"}]
    )
    result = splits(None, train=str(tmp_path), validation_size=6)
    assert result.labels.task == "multiclass" and result.labels.names == ("n", "p", "q")
    numbers = dict(
        zip(
            [*result.train.texts, *result.validation.texts],
            result.train.numbers + result.validation.numbers,
            strict=True,
        )
    )
    assert numbers["row 19 is good"] == 20 and numbers["only here"] == 41 and result.train.source == str(tmp_path)
    write_table(tmp_path / "three.csv", [{"text": "a", "tag": "b"}])
    with pytest.raises(DataError, match="different columns: one.csv has text, label, and three.csv has text, tag"):
        splits(None, train=str(tmp_path))


@pytest.mark.parametrize("name", ["{}.csv", "{}-00000-of-00001.parquet", "reviews_{}.jsonl", "{}/part-0.parquet"])
def test_a_folder_named_for_splits_is_split_as_it_says(tmp_path: Path, name: str) -> None:
    for split, rows in (("train", table()[:24]), ("dev", table()[24:32]), ("test", table()[32:])):
        file = tmp_path / name.format(split)
        file.parent.mkdir(exist_ok=True)
        write_table(file, rows)
    result = splits(None, train=str(tmp_path))
    assert (len(result.train), len(result.validation), len(result.tests["test"])) == (24, 8, 8)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no tables"):
        splits(None, train=str(tmp_path))


def test_rows_drawn_from_a_folder_are_drawn_from_all_of_it(tmp_path: Path) -> None:
    for name, part in (("a.csv", table()[:20]), ("b.csv", table()[20:])):
        write_table(tmp_path / name, part)
    result = splits(None, train={"path": str(tmp_path), "rows": 10, "holdout": 6}, validation_size=2)
    held_out = result.tests[f"{tmp_path.parent.name}_{tmp_path.name}_holdout"]
    assert len(result.train) + len(result.validation) == 10 and len(held_out) == 6
    assert {int(text.split()[1]) >= 20 for text in result.train.texts} == {True, False}


def test_a_polars_frame_is_a_table() -> None:
    import polars

    assert splits(polars.DataFrame(table()), validation_size=4).train == splits(table(), validation_size=4).train
