"""Options of a calibration: a frozen dataclass, checked when made, light enough for the command line."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from hub_models.runs.config import REVISION_HELP, TABLE_HELP

GROUP_NAMES = ("sex", "age", "site")


class RuleName(StrEnum):
    """How a threshold is chosen."""

    YOUDEN = "youden"  # the largest sum of sensitivity and specificity
    SENSITIVITY = "sensitivity"  # the highest threshold with at least this sensitivity
    SPECIFICITY = "specificity"  # the lowest threshold with at least this specificity
    TESTS_PER_CASE = "tests_per_case"  # the largest sensitivity with at most so many tests for a case found


def option(text: str, default: Any = None) -> Any:
    """Return a field with its help and default."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class CalibrationConfig:
    """Local X-rays with confirmed status, or scores and truth alone, and the rule to choose a threshold by."""

    output: Path = field(metadata={"help": "folder to write the report to"})
    model: str | None = option("TB model: a run folder or a Hub id")
    data: str | None = option("local X-rays with labels that the model was not trained on")
    split: Literal["train", "validation", "test"] | None = option("split of the data (default: all X-rays)")
    table: str | None = option(TABLE_HELP)
    data_revision: str | None = option(REVISION_HELP)
    segmenter: str | None = option("lung model, for a TB model of the lung region")
    revision: str | None = option("branch, tag or commit of models that come from the Hub (default: main)")
    predictions: str | None = option("table of scores: predictions.csv or .parquet of cxm predict, or id and score")
    truth: str | None = option("table of confirmed status: id and label")
    columns: str | None = option(
        "FIELD=COLUMN, ...: for --data as in cxm train; for scores and truth such as id=study, score=cad, "
        "label=culture (default: guessed)"
    )
    positive: str | None = option("labels that are positive, such as TB,MTB; all others are negative")
    sensitivity: float | None = option("rule: the highest threshold with at least this sensitivity, such as 0.9")
    specificity: float | None = option("rule: the lowest threshold with at least this specificity, such as 0.7")
    tests_per_case: float | None = option(
        "rule: the largest sensitivity with at most so many tests for a case found, such as 10"
    )
    prevalence: float | None = option(
        "fraction of people with TB where the model will be used (default: the sample's)"
    )
    groups: str = option("groups that also get thresholds of their own: any of sex,age,site (default: none)", "")
    name: str | None = option("name of the X-rays in the report and card (default: that of the folder or file)")
    write: Path | None = option("folder to write the model to, with the new operating point (default: none)")

    def __post_init__(self) -> None:
        """Check what needs no X-ray.

        Raises:
            ValueError: options that do not go together, or a value out of its range.
        """
        object.__setattr__(self, "output", Path(self.output))
        if self.write is not None:
            object.__setattr__(self, "write", Path(self.write))
        pairs = (("model", "data"), ("predictions", "truth"))
        given = [name for pair in pairs for name in pair if getattr(self, name) is not None]
        if tuple(given) not in pairs:
            held = ", ".join(f"--{name}" for name in given) or "neither"
            raise ValueError(f"pass --model and --data, or --predictions and --truth; got {held}")
        of_model = ("split", "table", "data_revision", "segmenter", "revision", "write")
        if not self.model and (named := [name for name in of_model if getattr(self, name) is not None]):
            raise ValueError(f"--{named[0]} is only for --model and --data: leave it out")
        if len(rules := [name for name in RuleName if getattr(self, name, None) is not None]) > 1:
            raise ValueError(f"--{rules[0]} and --{rules[1]} are two rules for one threshold: pass one of them")
        for name, least, most in (("sensitivity", 0, 1), ("specificity", 0, 1), ("prevalence", 0, 1)):
            value = getattr(self, name)
            if value is not None and not (least < value < most or (value == 1 and name != "prevalence")):
                most_said = "below" if name == "prevalence" else "at most"
                raise ValueError(f"{name} must be above 0 and {most_said} 1, got {value}")
        if self.tests_per_case is not None and not self.tests_per_case >= 1:
            raise ValueError(f"tests_per_case must be at least 1, got {self.tests_per_case}")
        if unknown := [name for name in self.group_names if name not in GROUP_NAMES]:
            raise ValueError(f"no groups by {unknown[0]!r}: pass any of {', '.join(GROUP_NAMES)}")

    @property
    def group_names(self) -> list[str]:
        """Return which groups get a threshold of their own."""
        return [name.strip() for name in self.groups.split(",") if name.strip()]

    @property
    def source_name(self) -> str:
        """Return what report and card call the X-rays; never a path of this machine."""
        source = self.data or self.truth or ""
        return self.name or (Path(source).resolve().name if Path(source).exists() else source)
