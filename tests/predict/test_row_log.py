import faulthandler
import json
import shutil
import threading
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from hub_models.predict import row_log
from hub_models.predict.row_log import (
    close_row_log,
    done_before,
    drop_rows,
    fatal_before,
    file_of,
    is_whole,
    noted,
    open_notes,
    open_row_log,
)

SCHEMA = pyarrow.schema([("source", pyarrow.string()), ("probability", pyarrow.float64()), ("ok", pyarrow.bool_())])


def line(number: int, **columns: object) -> str:
    return json.dumps({"number": number, "source": f"xray, {number}"} | columns) + "\n"


def append(folder: Path, process: int, *numbers: int) -> None:
    file_of(folder, process).open("a").write("".join(map(line, numbers)))


def test_rows_of_all_processes_and_launches_become_one_table(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(row_log, "TABLE_ROWS", 2)  # several blocks
    open_row_log(tmp_path)
    assert not done_before(tmp_path, 6).any()
    append(tmp_path, 0, 0, 1)
    append(tmp_path, 1, 3)
    assert not done_before(tmp_path, 6).any()  # of earlier launches only: no process sees what another does now
    open_row_log(tmp_path)
    assert done_before(tmp_path, 6).tolist() == [True, True, False, True, False, False]
    file_of(tmp_path, 0).write_text(line(2, probability=0.1 + 0.2, ok=False, other="left out") + line(4))
    append(tmp_path, 2, 5)
    assert not is_whole(tmp_path, "xrays")
    close_row_log(tmp_path, "xrays", SCHEMA, 6)
    assert is_whole(tmp_path, "xrays")
    table = pyarrow.parquet.read_table(tmp_path / "xrays.parquet")
    assert table.schema == SCHEMA
    assert table["source"].to_pylist() == [f"xray, {number}" for number in range(6)]
    assert table["probability"].to_pylist() == [None, None, 0.1 + 0.2, None, None, None]  # to the bit
    assert table["ok"].to_pylist()[2] is False
    assert pyarrow.csv.read_csv(tmp_path / "xrays.csv")["source"].to_pylist() == table["source"].to_pylist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["xrays.csv", "xrays.parquet"]


@pytest.mark.parametrize("cut", [1, 5, len(line(2)) - 1])
def test_line_that_a_kill_cut_off_is_dropped(tmp_path, cut: int) -> None:
    open_row_log(tmp_path)
    append(tmp_path, 0, 0, 1)
    with file_of(tmp_path, 0).open("a") as file:
        file.write(line(2)[:cut])
    file_of(tmp_path, 1).write_text(line(3)[:cut])
    open_row_log(tmp_path)
    assert done_before(tmp_path, 4).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    "junk",
    [
        "\x00\x00",
        "junk",
        "[1]",
        '{"number": 3}',
        line(9),
        line(-1),
        line(1),
        '{"number": 2.5, "source": "x"}',
        "[" * 99_999,
    ],
)
def test_damaged_line_is_named_and_its_x_ray_read_again(junk: str, tmp_path, caplog) -> None:
    open_row_log(tmp_path)
    append(tmp_path, 0, 0, 1)
    with file_of(tmp_path, 0).open("a") as file:
        file.write(junk.rstrip("\n") + "\n" + line(2))
    (tmp_path / "rows" / "notes.txt").touch()
    (tmp_path / "rows" / "zzz").mkdir()
    open_row_log(tmp_path)
    assert done_before(tmp_path, 4).tolist() == [True, True, True, False]
    assert "line 3 of" in caplog.text and "00000.jsonl is damaged" in caplog.text
    append(tmp_path, 0, 3)
    close_row_log(tmp_path, "xrays", SCHEMA, 4)
    sources = pyarrow.parquet.read_table(tmp_path / "xrays.parquet")["source"].to_pylist()
    assert sources == [f"xray, {number}" for number in range(4)]


def test_launch_gets_a_place_of_its_own_though_an_earlier_one_is_gone(tmp_path) -> None:
    for number in range(3):
        open_row_log(tmp_path)
        append(tmp_path, 0, number)
    shutil.rmtree(tmp_path / "rows" / "00000")
    open_row_log(tmp_path)
    assert done_before(tmp_path, 3).tolist() == [False, True, True]


def test_missing_rows_are_refused_and_double_ones_dropped(tmp_path) -> None:
    open_row_log(tmp_path)
    append(tmp_path, 0, 0, 1)
    append(tmp_path, 1, 1)
    with pytest.raises(ValueError, match="holds 2 of 3 rows: start the same command again"):
        close_row_log(tmp_path, "xrays", SCHEMA, 3)
    assert not is_whole(tmp_path, "xrays")
    append(tmp_path, 1, 2)
    close_row_log(tmp_path, "xrays", SCHEMA, 3)
    sources = pyarrow.parquet.read_table(tmp_path / "xrays.parquet")["source"].to_pylist()
    assert sources == ["xray, 0", "xray, 1", "xray, 2"]


def test_tables_stand_only_when_both_do(tmp_path) -> None:
    open_row_log(tmp_path)
    append(tmp_path, 0, 0)
    (tmp_path / "xrays.parquet").write_bytes(b"of a launch killed between the two")
    assert not is_whole(tmp_path, "xrays")
    close_row_log(tmp_path, "xrays", SCHEMA, 1)
    assert is_whole(tmp_path, "xrays")
    open_row_log(tmp_path)  # of a launch killed before it deleted these
    append(tmp_path, 0, 0)
    drop_rows(tmp_path)
    drop_rows(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["xrays.csv", "xrays.parquet"]


DIED = (
    "Fatal Python error: Aborted\n\nThread 0x0000000000000b0b (most recent call first):\n\nCurrent thread 0x{:016x} ("
)


def test_xray_whose_thread_died_is_fatal_and_those_of_a_killed_process_are_not(tmp_path) -> None:
    open_row_log(tmp_path)
    assert fatal_before(tmp_path) == frozenset()
    for process, died in ((0, DIED.format(0xA0A)), (1, ""), (2, DIED.format(0xC0C))):
        begun = f"+{process}0 a0a\n+{process}1 b0b\n-{process}0 a0a\n+{process}2 a0a\n"
        file_of(tmp_path, process).with_suffix(".notes").write_text(begun + died)
    open_row_log(tmp_path)
    assert fatal_before(tmp_path) == {2}  # process 0; 1 was killed; in 2 it was another thread, of no X-ray
    for launch in (1, 2):
        file_of(tmp_path, 1).with_suffix(".notes").write_text("+11 d0d\n+12 d0d\n" if launch == 1 else "+12 d0d\n")
        assert fatal_before(tmp_path) == {2}
        open_row_log(tmp_path)
    assert fatal_before(tmp_path) == {2, 12}  # three processes were killed while they decoded it


def test_notes_tell_what_is_decoded_and_end_with_the_block(tmp_path) -> None:
    was_enabled = faulthandler.is_enabled()
    open_row_log(tmp_path)
    with open_notes(tmp_path, 0) as notes:
        assert faulthandler.is_enabled()
        with noted(notes, 7), pytest.raises(KeyError), noted(notes, 8):
            raise KeyError
        with noted(None, 9):
            pass
    thread = f"{threading.get_ident():x}"
    said = file_of(tmp_path, 0).with_suffix(".notes").read_text()
    assert said == f"+7 {thread}\n+8 {thread}\n-8 {thread}\n-7 {thread}\n"
    assert faulthandler.is_enabled() == was_enabled
