import ast
import re
import string
import sys
from pathlib import Path

import pytest

from hub_models.imaging import flags
from hub_models.imaging.flags import Flag, RaisedFlag
from hub_models.predict.checks import AREA_FRACTIONS, BORDER_FRACTION, LEAST_RATIO


def test_codes_are_plain_strings_of_their_own() -> None:
    assert len({flag.value for flag in Flag}) == len({flag.message for flag in Flag}) == len(Flag) == 19
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", flag) for flag in Flag)
    assert Flag.NO_LUNGS == "no_lungs" and Flag("no_lungs") is Flag.NO_LUNGS and f"{Flag.NO_LUNGS}" == "no_lungs"


@pytest.mark.parametrize("flag", Flag)
def test_message_holds_the_values_it_names_and_says_when(flag: Flag) -> None:
    names = [name for _, name, _, _ in string.Formatter().parse(flag.message) if name]
    raised = flag.raised(**{name: f"<{name}>" for name in names})
    assert isinstance(raised, RaisedFlag) and raised.code is flag and "{" not in raised.message and flag.when
    assert all(f"<{name}>" in raised.message for name in names)
    if names:
        with pytest.raises(KeyError, match=names[0]):
            flag.raised()


def test_limits_told_are_those_used() -> None:
    assert f"{LEAST_RATIO:.0%}" in Flag.ONE_LUNG.when and f"{BORDER_FRACTION:.0%}" in Flag.TOUCHES_BORDER.when
    assert all(f"{one:.0%}" in Flag.IMPLAUSIBLE_SIZE.when for one in AREA_FRACTIONS)


def test_only_the_standard_library_is_imported() -> None:
    tree = ast.parse(Path(flags.__file__).read_text())
    modules = {one.module for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)}
    assert modules and modules <= sys.stdlib_module_names
    assert not any(isinstance(one, ast.Import) for one in ast.walk(tree))
