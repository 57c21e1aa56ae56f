from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from pictures import of_tb, pixels_of

from hub_models.evaluation import charts
from hub_models.evaluation.charts import (
    confidently_wrong,
    draw_distribution,
    draw_probabilities,
    draw_reliability,
    draw_roc,
)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are saved while a test runs."""
    saved, save = [], charts.save_picture
    monkeypatch.setattr(charts, "save_picture", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]


def test_confidently_wrong_by_hand() -> None:
    # threshold .5: 0 is off by .6, 1 by .8, 4 by .6, 5 by .5; 2 and 3 are right
    rows = of_tb([1, 0, 1, 0, 0, 0], [0.4, 0.8, 0.5, 0.49, 0.6, 0.5])
    assert [row["id"] for row in confidently_wrong(rows)] == ["A1", "A0", "A4", "A5"]
    assert len(confidently_wrong(of_tb([1] * 7, [0.1] * 7))) == 5
    assert confidently_wrong(of_tb([1, 0], [0.5, 0.4])) == []


def test_probabilities_by_hand(tmp_path, drawn) -> None:
    rows = of_tb([1, 0, 0, 0], [0.9, 0.211, 0.212, 0.7]) + of_tb([1], [0.1], "B")
    draw_probabilities(rows, tmp_path / "probabilities.png")
    assert min(pixels_of(tmp_path / "probabilities.png").shape[:2]) > 300
    axis = drawn[0].axes[0]
    assert texts(drawn[0]) == ["A", "B", "threshold 0.500"]
    dots, other, threshold = axis.get_lines()
    assert dots.get_xdata() == pytest.approx([0.9, 0.211, 0.212, 0.7]) and other.get_xdata() == pytest.approx([0.1])
    # .211 and .212 share a bin of .02: one stands on the other
    assert dots.get_ydata() == pytest.approx([1, 0, 0.045, 0]) and list(threshold.get_xdata()) == [0.5, 0.5]
    assert {note.get_text(): note.xy for note in axis.texts} == {"1": (0.1, 1), "2": (0.7, 0)}
    assert drawn[0].texts[0].get_text() == "1  B0: 0.100\n2  A3: 0.700"
    draw_probabilities(rows[:3], tmp_path / "probabilities.png")  # none is wrong
    assert drawn[1].axes[0].get_title() == "Every test X-ray" and not drawn[1].axes[0].texts


def test_numbers_of_neighbors_stand_apart(tmp_path, drawn) -> None:
    draw_probabilities(of_tb([0] * 4, [0.931, 0.93, 0.93, 0.999]), tmp_path / "probabilities.png")
    places = sorted((note.xyann[0], note.get_text()) for note in drawn[0].axes[0].texts)
    assert [number for _, number in places] == ["3", "4", "2", "1"]  # as their dots stand
    assert np.diff([x for x, _ in places]).min() >= 0.035 - 1e-9 and places[-1][0] <= 1


def test_distribution_has_a_line_for_each_site_and_all(tmp_path, drawn) -> None:
    values = {"A": [0.9, 0.5, 0.7], "B": [0.2]}
    rows = [{"id": f"{site}{n}", "site": site, "dice": v} for site, vs in values.items() for n, v in enumerate(vs)]
    draw_distribution(rows, tmp_path / "dice.png")
    height, width, _ = pixels_of(tmp_path / "dice.png").shape
    assert 300 < height < width < 1000
    assert texts(drawn[0]) == [
        "A: mean 0.700, median 0.700 (n 3)",
        "B: mean 0.200, median 0.200 (n 1)",
        "all: mean 0.575, median 0.600 (n 4)",
    ]
    fractions, dices = drawn[0].axes[0].get_lines()[0].get_data()
    assert list(dices) == [0.5, 0.7, 0.9] and list(fractions) == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    draw_distribution(rows[:3], tmp_path / "dice.png")
    assert texts(drawn[1]) == ["A: mean 0.700, median 0.700 (n 3)"]  # one site is all


def test_roc_by_hand(tmp_path, drawn) -> None:
    # of 4 pairs, .4 against .6 is lost; from .5 up half of the positives and half of the negatives are called
    rows = of_tb([1, 0, 1, 0], [0.9, 0.2, 0.4, 0.6])
    draw_roc(rows, tmp_path / "roc.png")
    assert min(pixels_of(tmp_path / "roc.png").shape[:2]) > 300
    assert texts(drawn[0])[1:] == ["A: AUROC 0.750 (n 4, only 2 normal, only 2 tuberculosis)"]
    _, point = drawn[0].axes[0].get_lines()
    assert np.array(point.get_data()).ravel().tolist() == [0.5, 0.5]
    both = rows + of_tb([1, 0], [0.9, 0.1], "B")
    draw_roc(both, tmp_path / "roc.png")
    assert [text.split(":")[0] for text in texts(drawn[1])[1:]] == ["A", "B", "all"]
    draw_roc(of_tb([1] * 9 + [0] * 10, [0.1] * 19), tmp_path / "roc.png")
    assert texts(drawn[2])[1:] == ["A: AUROC 0.500 (n 19, only 9 tuberculosis)"]


def test_roc_of_one_class_is_left_out(tmp_path, drawn) -> None:
    draw_roc(of_tb([1, 1], [0.9, 0.2]), tmp_path / "roc.png")
    assert pixels_of(tmp_path / "roc.png").std() > 0 and len(texts(drawn[0])) == 1
    draw_roc(of_tb([1, 1], [0.9, 0.2]) + of_tb([0, 1], [0.1, 0.8], "B"), tmp_path / "roc.png")
    assert [text.split(":")[0] for text in texts(drawn[1])[1:]] == ["B", "all"]


def test_reliability_by_hand(tmp_path, drawn) -> None:
    # bins of a tenth: .25 and .29 share one, of whose two X-rays one is positive; 1.0 is in the last
    draw_reliability(of_tb([1, 0, 1], [0.25, 0.29, 1.0]), tmp_path / "reliability.png")
    assert min(pixels_of(tmp_path / "reliability.png").shape[:2]) > 300
    axis, below = drawn[0].axes
    means, fractions = axis.get_lines()[1].get_data()
    assert list(means) == pytest.approx([0.27, 1.0]) and list(fractions) == [0.5, 1.0]
    assert [int(bar.get_height()) for bar in below.patches] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    assert all(tick == round(tick) for tick in below.get_yticks())
    assert axis.get_legend() is None  # nothing on the curve
    draw_reliability(of_tb([1], [0.0]), tmp_path / "reliability.png")
    assert pixels_of(tmp_path / "reliability.png").std() > 0


def test_a_picture_is_whole_or_absent(tmp_path, monkeypatch) -> None:
    draw_roc(of_tb([1, 0], [0.9, 0.2]), tmp_path / "roc.png")
    before = (tmp_path / "roc.png").read_bytes()

    def fail(self: Figure, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_roc(of_tb([1, 0], [0.9, 0.2]), tmp_path / "roc.png")
    assert (tmp_path / "roc.png").read_bytes() == before
