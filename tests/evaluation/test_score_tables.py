"""Two tables, in any encoding of a spreadsheet: matched, or one sentence; nothing is left out without a word."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from hub_models.evaluation.score_tables import Scores, read_scores

HEAD_P, HEAD_T = "id,probability", "id,label"
LINES_P = ["a,0.9", "b,0.2", "c,0.7", "d,0.1"]
LINES_T = ["a,1", "b,0", "c,1", "d,0"]


def written(folder: Path, predictions: list[str], truth: list[str], encoding: str = "utf-8") -> tuple[Path, Path]:
    paths = folder / "predictions.csv", folder / "truth.csv"
    for path, lines in zip(paths, (predictions, truth), strict=True):
        path.write_bytes("\r\n".join(lines).encode(encoding))
    return paths


def codes(scores: Scores) -> dict[str, tuple[str, ...]]:
    return {one.code.value: one.ids for one in scores.warnings}


def test_tables_are_matched_by_id_in_any_order(tmp_path) -> None:
    predictions, truth = written(tmp_path, [HEAD_P, *LINES_P], [HEAD_T, *LINES_T[::-1]])
    scores = read_scores(predictions, truth)
    assert scores.ids == scores.patients == ["a", "b", "c", "d"]
    assert scores.labels.tolist() == [1, 0, 1, 0] and scores.values.tolist() == [0.9, 0.2, 0.7, 0.1]
    assert codes(scores) == {"no_patient_id": ()} and scores.stored is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_and_separators_of_spreadsheets(encoding: str, separator: str, tmp_path) -> None:
    truth = ["Study ID;Befund;Patient;Alter;Gender", "é1;TB;p;31;F", "é2;normal;q;;M", ""]
    lines = [line.replace(";", separator) for line in truth]
    paths = written(
        tmp_path, ["Source;Score".replace(";", separator), *(f"é{i}{separator}0.{i}" for i in (1, 2))], lines, encoding
    )
    scores = read_scores(*paths, columns="label=Befund,age=Alter")
    assert (scores.ids, scores.patients, scores.labels.tolist()) == (["é1", "é2"], ["p", "q"], [1, 0])
    assert scores.groups == {"sex": ["female", "male"], "age": ["15-34", "unknown"]} and codes(scores) == {}


def test_parquet_of_predictions_and_one_file_for_both(tmp_path) -> None:
    table = {"source": ["a", "b", "c"], "probability": [0.5, None, 0.25], "threshold": [0.4] * 3}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "predictions.parquet")
    _, truth = written(tmp_path, [], ["source,label", "a,yes", "b,no", "c,no"])
    scores = read_scores(tmp_path / "predictions.parquet", truth)
    assert (scores.values.tolist(), scores.stored) == ([0.5, 0.25], 0.4)
    assert codes(scores)["no_score"] == ("b",)
    pyarrow.parquet.write_table(pyarrow.table(table | {"label": [True, False, True]}), tmp_path / "both")
    scores = read_scores(tmp_path / "both", tmp_path / "both")
    assert (scores.ids, scores.labels.tolist()) == (["a", "c"], [1, 1])


def test_numbers_as_ids_are_the_same_in_both(tmp_path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": [7.0, 8.0], "score": [1, 2]}), tmp_path / "p")
    _, truth = written(tmp_path, [], [HEAD_T, "7,1", "8,0"])
    assert read_scores(tmp_path / "p", truth).ids == ["7", "8"]


def test_what_does_not_match_is_counted_and_named(tmp_path) -> None:
    predictions = [HEAD_P, *LINES_P, "e,0.3", "f,", "g,0.5", "a,0.9"]
    truth = [HEAD_T, *LINES_T, "f,1", "g,", "h,0", "b,0"]
    scores = read_scores(*written(tmp_path, predictions, truth))
    assert scores.ids == ["a", "b", "c", "d"]
    found = codes(scores)
    assert found["no_truth"] == ("e",) and found["no_prediction"] == ("h",)
    assert found["no_score"] == ("f",) and found["no_label"] == ("g",)
    assert [one.ids for one in scores.warnings if one.code == "repeated"] == [("a",), ("b",)]


def test_ids_alike_by_file_name_are_matched_and_said(tmp_path) -> None:
    predictions = ["source,probability", "x\\one/a.png,0.9", "x/two/b.dcm,0.1"]
    scores = read_scores(*written(tmp_path, predictions, [HEAD_T, "a,1", "b.PNG,0"]))
    assert scores.ids == ["a", "b"] and "matched_by_name" in codes(scores)
    with pytest.raises(ValueError, match="x/a.png, y/a.png"):
        read_scores(*written(tmp_path, ["source,score", "x/a.png,0.9", "y/a.png,0.1"], [HEAD_T, "a,1"]))


def test_other_labels_are_those_of_positive(tmp_path) -> None:
    predictions, truth = written(tmp_path, [HEAD_P, *LINES_P], [HEAD_T, "a,MTB", "b,NTM", "c,mtb rif", "d,negative"])
    with pytest.raises(ValueError, match="label of a in .* is 'mtb', neither 0 nor 1: pass --positive"):
        read_scores(predictions, truth)
    scores = read_scores(predictions, truth, positive="MTB,MTB RIF")
    assert scores.labels.tolist() == [1, 0, 1, 0]
    assert "ntm" in next(one.message for one in scores.warnings if one.code == "counted_negative")
    with pytest.raises(ValueError, match="no label in .* is tb: it has mtb"):
        read_scores(predictions, truth, positive="tb")


@pytest.mark.parametrize(
    ("predictions", "truth", "said"),
    [
        ([HEAD_P, "a,0.9", "a,0.8"], [HEAD_T, "a,1"], "has a twice, with probability '0.9' and '0.8'"),
        ([HEAD_P, "a,0.9"], [HEAD_T, "a,1", "a,0"], "has a twice, with label '1' and '0'"),
        ([HEAD_P, "a,high"], [HEAD_T, "a,1"], "the score of a in .* is 'high'"),
        ([HEAD_P, 'a,"0,9"'], [HEAD_T, "a,1"], "the score of a in .* is '0,9'"),
        ([HEAD_P, "a,inf"], [HEAD_T, "a,1"], "the score of a in .* is 'inf'"),
        ([HEAD_P, "a,0.9"], [HEAD_T, "a,2"], "label of a in .* is '2'"),
        ([HEAD_P, "a,0.9"], [HEAD_T, "b,1"], r"such as a\) is in .* \(such as b\)"),
        ([HEAD_P, ",0.9"], [HEAD_T, "a,1"], "a row with an empty id"),
        ([HEAD_P, "a,0.9,1"], [HEAD_T, "a,1"], "row 2, has 3 cells"),
        (["id,id,score", "a,b,0.9"], [HEAD_T, "a,1"], "'id' twice"),
        (["id,value", "a,0.9"], [HEAD_T, "a,1"], "no column for the score, but id, value: pass --columns score=NAME"),
        ([HEAD_P, "a,0.9"], ["id,culture", "a,1"], "no column for the label, but id, culture"),
        ([HEAD_P], [HEAD_T, "a,1"], "has no rows"),
        ([HEAD_P, "a,"], [HEAD_T, "a,1"], "has both a score and a label"),
        ([HEAD_P, "a\0,0.9"], [HEAD_T, "a,1"], "is not a table"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(predictions, truth, said, tmp_path) -> None:
    with pytest.raises(ValueError, match=said) as error:
        read_scores(*written(tmp_path, predictions, truth))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [("score", "got 'score'"), ("cad=score", "got 'cad=score'"), ("score=cad", "no column 'cad'")],
)
def test_columns_that_are_not_there_are_named(columns: str, said: str, tmp_path) -> None:
    paths = written(tmp_path, [HEAD_P, *LINES_P], [HEAD_T, *LINES_T])
    with pytest.raises(ValueError, match=said):
        read_scores(*paths, columns=columns)
    with pytest.raises(FileNotFoundError, match="no file .*gone.csv"):
        read_scores(tmp_path / "gone.csv", paths[1])


def test_damaged_parquet_is_named(tmp_path) -> None:
    (tmp_path / "p").write_bytes(b"PAR1" + b"\0" * 20)
    with pytest.raises(ValueError, match="is damaged"):
        read_scores(tmp_path / "p", tmp_path / "p")


def test_ages_that_are_none_are_counted(tmp_path) -> None:
    truth = ["id,label,age", "a,1,30", "b,0,old", "c,1,", "d,0,-3"]
    scores = read_scores(*written(tmp_path, [HEAD_P, *LINES_P], truth))
    assert scores.groups["age"] == ["15-34", "unknown", "unknown", "unknown"]
    assert codes(scores)["unreadable_age"] == ("b", "d")
    assert np.isfinite(scores.values).all()
