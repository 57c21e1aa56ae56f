import pytest

from hub_models.card_text import check_text, compare, sections

MADE = """# Model

Dice 0.951 on 81 X-rays.

## Results

| group | X-rays | Dice |
|---|---|---|
| all | 81 | 0.951 |

In brackets: 95 % intervals of `0.5`, see [12](https://a.b/1.5) and doi 10.1109/x.

```bash
# ## 77 is no heading
```
"""


def test_sections_are_lines_without_code() -> None:
    parts = sections(MADE)
    assert list(parts) == ["the first lines", "Results"]
    assert parts["Results"][0] == "## Results" and "77" not in str(parts)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Dice 0.951 on", "A Dice of 0.951 was reached on"),
        ("## Results", "## Thanks\n\nTo 3 people, v1.2.3 and x0.9.\n\n## Results"),
        ("`0.5`", "`0.7`"),
        ("https://a.b/1.5", "https://a.b/1.75"),
        ("# ## 77", "# 78.5"),
        ("95 %", "**95**&nbsp;%"),
        ("## Results", "Under CC BY 4.0, 5 per centimetre.\n\n## Results"),
    ],
)
def test_words_may_be_others(before: str, after: str) -> None:
    assert before in MADE
    check_text(MADE.replace(before, after), MADE, "the files")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("## Results", "## Figures", "the card has no section 'Results': write the card anew"),
        ("| all | 81 |", "| all | 82 |", "the card says 82 for X-rays of all .* in 'Results', the files 81: write"),
        ("| all | 81 | 0.951 |\n", "", "the card says nothing for X-rays of all .* in 'Results', the files 81"),
        ("on 81 X-rays", "on many X-rays", "the card lacks 81 in 'the first lines', which the files hold"),
        (
            "Dice 0.951 on",
            "Dice 0.951, once 0.999, on",
            "says 0.999 in 'the first lines', which stands in none of the",
        ),
        ("Dice 0.951 on", "Dice 0.951, once .999, on", "says .999 in 'the first lines', which stands in none of"),
        ("95 %", "95 % or 99&nbsp;%", "says 99 % in 'Results'"),
        ("95 %", "95 % or **99** %", "says 99 % in 'Results'"),
        ("95 %", "95 % or 0,999", "says 0.999 in 'Results'"),
        ("| all | 81 |", " | all | 82 |", "the card says 82 for X-rays of all .* in 'Results', the files 81: write"),
        ("95 %", "95 % or 99 per cent", "says 99 per cent in 'Results', which stands in none of the files"),
        ("0.951 on", "0.951 and 0.951 on", "says 0.951 in 'the first lines', which stands in none of the files"),
    ],
)
def test_numbers_and_sections_may_not(before: str, after: str, said: str) -> None:
    assert before in MADE
    with pytest.raises(ValueError, match=said):
        check_text(MADE.replace(before, after, 1), MADE, "the files")


def test_first_figure_that_differs_is_named() -> None:
    compare("metadata", {"a": 1}, {"a": 1}, "the files")
    with pytest.raises(ValueError, match="^the card says 2 for b in 'metadata', the files nothing: write it anew$"):
        compare("metadata", {"a": 1, "b": 2}, {"a": 1}, "the files")
