"""`parse_findings`: every reading of 525 real X-rays by eye, and the ways of denying, doubting and misspelling."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chest_xray_masks as cxm
from chest_xray_masks import FINDING_NAMES, Findings, parse_findings, parse_reading

# Each distinct text of findings in 525 real readings (capitals aside), with what a person reads in it.
TABLE = list(csv.DictReader(Path(__file__).with_name("data").joinpath("findings.csv").open(newline="")))


def said(found: Findings, presence: str) -> str:
    """Names of the findings of one presence; "all" for all of them."""
    names = [name for name in FINDING_NAMES if getattr(found, name) == presence]
    return "all" if len(names) == len(FINDING_NAMES) else " ".join(names)


@pytest.mark.parametrize("row", TABLE, ids=[row["findings"][:40] for row in TABLE])
def test_real_findings(row: dict[str, str]) -> None:
    found = parse_findings(row["findings"])
    place = found.side or "", " ".join(found.zones), found.activity or ""
    assert place == (row["side"], row["zones"], row["activity"])
    for presence in ("present", "uncertain", "absent"):
        assert said(found, presence) == row[presence], presence


def test_the_table_holds_every_real_text(real_data_dir: Path) -> None:
    rows = cxm.rows_of(cxm.scan(real_data_dir))
    texts = [parse_reading(row.reading).findings for row in rows]
    assert {text.lower() for text in texts if text} == {row["findings"].lower() for row in TABLE}
    counts = Counter(name for text in texts for name in parse_findings(text).present)
    assert (counts["cavity"], counts["miliary"], counts["pneumothorax"], counts["adenopathy"]) == (11, 5, 3, 0)


# text, then what is present, uncertain and absent by the first letters of the names
PRESENCE = [
    # denied
    ("no cavity", "", "", "cav"),
    ("No cavity, effusion or adenopathy.", "", "", "cav eff ade"),
    ("no infiltrates, nodules, masses, cavities or effusions", "", "", "cav nod inf eff"),
    ("without evidence of cavitation, effusion, or adenopathy", "", "", "cav eff ade"),
    ("RUL infiltrate without cavity, left pleural effusion", "inf eff", "", "cav"),
    ("infiltrate w/o cavitation", "inf", "", "cav"),
    ("no cavity and left effusion", "eff", "", "cav"),
    ("no cavity but RUL infiltrate", "inf", "", "cav"),
    ("infiltrate - no cavity", "inf", "", "cav"),
    ("neither cavity nor effusion", "", "", "cav eff"),
    ("effusion on the right with no pneumothorax", "eff", "", "pneumo"),
    ("non-cavitary infiltrate RUL", "inf", "", "cav"),
    ("RUL infiltrate\uff1bleft effusion\uff0cno cavity", "inf eff", "", "cav"),
    # gone
    ("infiltrates cleared", "", "", "inf"),
    ("RUL infiltrate has cleared", "", "", "inf"),
    ("cleared infiltrate LUL", "", "", "inf"),
    ("lungs clear of infiltrates", "", "", "inf"),
    ("interval resolution of right effusion", "", "", "eff"),
    ("right pleural effusion has resolved but RUL cavity persists", "cav", "", "eff"),
    ("infiltrate resolved with residual scar RUL", "fib", "", "inf"),
    ("RUL cavity and effusion have resolved", "", "", "cav eff"),
    ("cavities are no longer seen", "", "", "cav"),
    ("cavity: none; effusion: present", "eff", "", "cav"),
    ("cavity (-), effusion (+)", "eff", "", "cav"),
    ("miliary TB ruled out", "", "", "mil"),
    # not gone
    ("RUL infiltrate has not cleared", "inf", "", ""),
    ("RUL infiltrate has almost completely resolved", "inf", "", ""),
    ("partial resolution of right effusion", "eff", "", ""),
    ("no change in the RUL cavity", "cav", "", ""),
    ("no significant improvement of right pleural effusion", "eff", "", ""),
    ("clearing of infiltrates", "inf", "", ""),
    ("previously noted RUL infiltrate is unchanged", "inf", "", ""),
    # doubted
    ("? cavity RUL", "", "cav", ""),
    ("RUL cavity (?)", "", "cav", ""),
    ("cavity?, effusion", "eff", "cav", ""),
    ("possible cavity in the left upper field", "", "cav", ""),
    ("cavity in RUL suspected, infiltrate in LUL", "inf", "cav", ""),
    ("cavity cannot be excluded", "", "cav", ""),
    ("RUL opacity likely scar", "inf", "fib", ""),
    ("no new infiltrate", "", "inf", ""),
    ("h/o pneumothorax, now RUL fibrosis", "fib", "pneumo", ""),
    ("blunting of the left costophrenic angle", "", "eff ple", ""),
    ("left PTB with pneumonia", "", "inf", ""),
    ("right pleurisy", "", "eff", ""),
    ("no pleurisy", "", "", "eff"),
    # said twice
    ("no cavity in LUL; cavity in RUL", "cav", "", ""),
    ("possible effusion on the left, effusion on the right", "eff", "", ""),
    # other words, and other things
    ("right hydropneumothorax", "eff pneumo", "", ""),
    ("collapse of the right lower lobe", "ate", "", ""),
    ("calcified hilar lymph nodes", "cal", "", ""),
    ("hilar lymphadenopathy", "ade", "", ""),
    ("apical cap on the right", "ple", "", ""),
    ("tuberculoma", "nod", "", ""),
    ("fluid in the pleural cavity", "eff", "", ""),
    ("pericardial effusion", "", "", ""),
    ("air-fluid level", "", "", ""),
    # misspelt
    ("cavaty RUL with effussion", "cav eff", "", ""),
    ("calcifed granulma LLL", "nod cal", "", ""),
    ("plerual thickning left", "ple", "", ""),
    ("pnuemothorax right", "pneumo", "", ""),
    ("atelectesis of the right midle lobe", "ate", "", ""),
    ("fibrosos LUL, wihtout cavity", "fib", "", "cav"),
    ("bilatral miliary nodles", "mil", "", ""),
    ("infiltarte with cavitiy", "cav inf", "", ""),
]


@pytest.mark.parametrize(("text", "present", "uncertain", "absent"), PRESENCE)
def test_presence(text: str, present: str, uncertain: str, absent: str) -> None:
    found = parse_findings(text)
    expected = {"present": present, "uncertain": uncertain, "absent": absent}
    for presence, starts in expected.items():
        names = {name for name in FINDING_NAMES for start in starts.split() if name.startswith(start)}
        assert {name for name in FINDING_NAMES if getattr(found, name) == presence} == names, presence


@pytest.mark.parametrize(
    ("text", "side", "zones"),
    [
        ("R upper lobe infiltrate, L effusion", "bilateral", "upper"),
        ("rt. lower lobe consolidation", "right", "lower"),
        ("bibasilar atelectasis", "bilateral", "lower"),
        ("scars in both apices", "bilateral", "upper"),
        ("PTB in the left upper and middle fields", "left", "upper middle"),
        ("cavity in the lingula", "left", "middle"),
        ("infiltrate in rigth uper lobe", "right", "upper"),
        ("mediastinum shifted to the left; right effusion", "right", ""),
        ("left lung clear, RUL infiltrate", "right", "upper"),
        ("effusion absent on the left; cavity RUL", "right", "upper"),
        ("no cavity in the left lung; RLL nodule", "right", "lower"),
        ("right upper PTB with cavity closed", "right", "upper"),
        ("possible cavity LUL", "left", "upper"),
        ("PTB", None, ""),
    ],
)
def test_place(text: str, side: str | None, zones: str) -> None:
    found = parse_findings(text)
    assert (found.side, " ".join(found.zones)) == (side, zones)


@pytest.mark.parametrize(
    ("text", "activity"),
    [
        ("active TB", "active"),
        ("TB reactivation RUL", "active"),
        ("sputum positive RUL cavity", "active"),
        ("no treatment yet; active TB RUL", "active"),
        ("old inactive scar right, new active TB left", "active"),
        ("non-active TB", "inactive"),
        ("no evidence of active TB", "inactive"),
        ("old healed TB left apex", "inactive"),
        ("inactive TB, treated", "inactive"),
        ("treated TB, scars both apices", "treated"),
        ("scars RUL, h/o anti-TB treatment", "treated"),
        ("no previous TB treatment", "unknown"),
        ("?active TB", "unknown"),
        ("active disease cannot be excluded", "unknown"),
        ("likely inactive TB", "unknown"),
        ("contact with active case", "unknown"),
        ("smear negative cavitary TB", "unknown"),
        ("normal", None),
        ("normal, no active disease", None),
        ("", None),
    ],
)
def test_activity(text: str, activity: str | None) -> None:
    assert parse_findings(text).activity == activity


@pytest.mark.parametrize("text", ["normal", "Normal chest", "lungs clear", "no abnormality detected", "CXR normal"])
def test_normal_denies_every_finding(text: str) -> None:
    assert said(parse_findings(text), "absent") == "all"


def test_normal_with_a_finding_denies_the_others() -> None:
    found = parse_findings("normal except for calcified granuloma in RLL")
    assert found.present == ["nodule", "calcification"]
    assert found.cavity == "absent" and found.side == "right"
    assert parse_findings("Normal heart size; infiltrate RUL").cavity is None
    assert parse_findings("pt had previously normal CXR").cavity is None


def test_none_says_nothing() -> None:
    assert parse_findings(None) == Findings()


def test_radlex_ids() -> None:
    ids = [id for id in cxm.RADLEX.values() if id]
    assert all(re.fullmatch(r"RID[0-9]+", id) for id in ids) and len(set(ids)) == len(ids)
    assert set(cxm.RADLEX) == {*FINDING_NAMES, *cxm.SIDES}
    # as RadLex has no term, or none that two sources agree on
    assert [name for name, id in cxm.RADLEX.items() if id is None] == [
        "cavity", "infiltrate", "miliary", "pleural_thickening",
    ]  # fmt: skip


WORDS = (
    "no cavity , effusion or left RUL ? possible cleared resolved and with ; . but has non-cavitary normal active old"
)


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS.split())).map(" ".join) | st.text())
def test_any_text_gives_words_of_the_vocabulary(text: str) -> None:
    found = parse_findings(text)
    assert found.side in (None, *cxm.SIDES) and found.activity in (None, *cxm.ACTIVITIES)
    assert set(found.zones) <= set(cxm.ZONES)
    assert all(getattr(found, name) in (None, *cxm.PRESENCES) for name in FINDING_NAMES)


@pytest.mark.parametrize("text", ["no cavity and ", "cleared ", "pleural ", "the ", "not ", "a ", "? ", "has been "])
def test_a_text_of_64_kb_is_read_as_a_short_one(text: str) -> None:
    assert parse_findings(text * (2**16 // len(text))) == parse_findings(text * 3)
