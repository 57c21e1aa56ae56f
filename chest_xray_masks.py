"""The Montgomery County and Shenzhen tuberculosis chest X-rays with lung masks and readings, as a `datasets` builder.

    import chest_xray_masks

    rows = chest_xray_masks.load("MC", data_dir="<the set: a folder or a zip>", split="train")

The import also makes the name known to datasets 4 and 5: `load_dataset("chest_xray_masks", "MC", data_dir=...)`.

The file is complete on its own (standard library, datasets, numpy, PIL; pydicom for DICOM only), so it can be copied.
"""

import csv
import hashlib
import importlib
import inspect
import io
import json
import math
import os
import re
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import datasets
import numpy as np
from datasets.utils.file_utils import xopen
from PIL import Image, ImageOps, TiffImagePlugin

__version__ = "0.2.0"  # of the whole project; pyproject.toml and hub_models read it here

HOMEPAGE = "https://www.kaggle.com/datasets/nikhilpandey360/chest-xray-masks-and-labels"
DOWNLOAD_URL = "https://www.kaggle.com/api/v1/datasets/download/nikhilpandey360/chest-xray-masks-and-labels"
LAYOUTS = (
    "Lung Segmentation/{CXR_png,masks,test,ClinicalReadings} (Kaggle chest-xray-masks-and-labels), "
    "Montgomery/MontgomerySet and ChinaSet_AllFiles (Kaggle pulmonary-chest-xray-abnormalities), "
    "MontgomerySet and ChinaSet_AllFiles (NLM; masks in mask/), MontgomerySet with .dcm (NLM DICOM), "
    "{Montgomery,Shenzhen}/{img,mask} (Mendeley), images/images with *_metadata.csv (Kaggle raddar), "
    "{images,masks} or {images,masks/{left,right},clinical_readings}; folder or zip"
)
SITES = {"MC": "Montgomery", "Shenzhen": "Shenzhen"}  # config -> site
SITE_OF_PREFIX = {"MCUCXR": "Montgomery", "CHNCXR": "Shenzhen"}
SPLITS = ("train", "validation", "test")
# Chosen among 65 million: on the full 800, every group of site x label x has-mask is split 70/10/20 within 1.4 points.
# X-rays that resemble one patient's though no reading says so (MCUCXR_0254 and 0255, 0372 and 0375) are in one split.
SPLIT_SALT = 62858640
# Said by the readings of the full set ("same pt as ..."); kept here so that a copy without readings is split alike.
SAME_PATIENT = {"MCUCXR_0117": "MCUCXR_0113", "MCUCXR_0166": "MCUCXR_0162", "MCUCXR_0170": "MCUCXR_0162"}
FINDINGS_VERSION = 1  # raise when `parse_findings` comes to say something else, or lesions are read otherwise
ROWS_VERSION = 2  # raise when a row comes to hold something else; part of the cache's path
MAX_PIXELS = 100_000_000  # the largest original holds 19.7 million
DECODING_SECONDS = 30  # of a compressed DICOM frame, and two more for each million pixels
HEADER_BYTES = 2**22  # of a DICOM element but the pixels: lookup tables, the longest, take 2**17 each
HEAD_BYTES = 512  # of a file, which tell what it is
MAX_BYTES = 2**29  # of an image file: MAX_PIXELS of 4 bytes and more
MAX_READING = 2**16  # bytes; the longest of the 800 readings takes 600
MAX_TABLE = 2**22  # bytes; the table of the 662 takes 28 kB
MAX_RATIO, MIN_BOUND = 100, 2**26  # a zip's member unpacks to 100 times its packed bytes, or to 64 MiB, at the most
# Of X-rays. Pillow reads more formats, but starts other programs for some of them (EPS).
FORMATS = ("PNG", "JPEG", "TIFF", "JPEG2000", "BMP", "GIF", "WEBP", "PPM")
CAMERA_FORMATS = ("JPEG", "MPO")  # a phone's photograph of an X-ray, in MPO beside previews
_TURNED = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")  # in the bytes of a PNG that may be turned
for _kind, _modes in list(TiffImagePlugin.OPEN_INFO.items()):
    if _kind[1] == 1 and _modes[0][0] in "IF":  # Pillow reads deep gray of all kinds where 0 is black
        TiffImagePlugin.OPEN_INFO.setdefault((_kind[0], 0, *_kind[2:]), _modes)

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "patient_id": datasets.Value("string"),
        "site": datasets.ClassLabel(names=list(SITES.values())),
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "label": datasets.ClassLabel(names=["normal", "tuberculosis"]),
        "sex": datasets.ClassLabel(names=["female", "male", "other"]),
        "age_years": datasets.Value("float32"),
        "findings": datasets.Value("string"),
        "reading": datasets.Value("string"),
    }
)
DESCRIPTION = "Chest X-rays of Montgomery County (138) and Shenzhen (662), 704 lung masks, readings and a TB label."
LICENSE = (
    "NLM asks users to cite the papers below, and not to share the Montgomery set outside one's group; Kaggle lists "
    "CC0; the Shenzhen masks (arXiv 1803.01199) are CC BY-NC-SA 4.0. Research use, not a medical device."
)
CITATION = """\
Jaeger et al. 2014, Quant Imaging Med Surg 4(6):475-477, doi 10.3978/j.issn.2223-4292.2014.11.20
Jaeger et al. 2014, IEEE Trans Med Imaging 33(2):233-245, doi 10.1109/TMI.2013.2284099
Candemir et al. 2014, IEEE Trans Med Imaging 33(2):577-590, doi 10.1109/TMI.2013.2290491
Stirenko et al. 2018 (Shenzhen masks), arXiv 1803.01199"""


class Reading(NamedTuple):
    """Sex (female, male or other), age (> 0) and findings in a radiologist's text; each None where it is not said."""

    sex: str | None = None
    age_years: float | None = None
    findings: str | None = None


_WORDS_OF_SEX = {"female": "f fem female woman girl", "male": "m male man boy", "other": "o other others"}
_SEX_WORDS = {word: sex for sex, words in _WORDS_OF_SEX.items() for word in words.split()}
_DAYS = {"y": 365.25, "m": 365.25 / 12, "w": 7.0, "d": 1.0}
_STOP = r"[^\S\n]*(?:[,;)\]]|\.?[^\S\n]*$)"  # where a phrase ends: a comma, a bracket, the line
_SEX_NEXT = rf"[^\w\n]*(?:(?:(?:fe)?male|(?:wo)?man|boy|girl)\b|[fm]\b(?={_STOP}))"
# Letters and misspellings must end where the word ends; spelt-out units may touch the next word ("45yrsnormal").
_MISSPELT = r"[tu]?y[ears]{0,6}|y/?o|m[ounthes]{0,7}(?<!most)(?<!men)|w[eks]{0,4}|d[ayes]{0,4}"
_UNIT = rf"(?:(?:{_MISSPELT})\b|years?|yrs?|months?|weeks?|days?|(?<=[0-9])y)"
_SPAN = rf"[0-9]{{1,3}}(?:[.,][0-9]+)?[^\w\n]{{0,3}}{_UNIT}"
_AGE = rf"{_SPAN}(?:(?:[^\S\n]*(?:and[^\S\n]*)?{_SPAN})+(?={_STOP}))?(?:[ -]?old\b(?={_STOP}|{_SEX_NEXT}))?"
_LABEL = r"(?:p[a-z]{1,7}\W{0,2}s?\W{0,2})?"  # "Patient's ", in any spelling and with any apostrophe
_LABELLED_SEX = re.compile(
    rf"{_LABEL}(?:sex|gender)\b[^\w\n]*(?P<value>[a-z]{{0,12}}?)(?=patient|[^a-z]|$)", re.I | re.M
)
_LABELLED_AGE = re.compile(rf"{_LABEL}aged?\b[^\w\n]*(?P<value>{_AGE}|[0-9]+|unknown\b|n/?a\b|)", re.I | re.M)
_SEX = re.compile(
    rf"(?P<value>fe[ -]male|[a-z]{{1,12}})(?![a-z])(?P<alone>(?=[\W_]*(?:[0-9]|$)|{_STOP}))?", re.I | re.M
)
_AGE_BEHIND_SEX = re.compile(
    rf"(?P<value>{_AGE}(?![a-z]*\s*(?:ago|later|earlier|before)\b)|[0-9]{{1,3}}(?={_STOP})"
    r"|[0-9][0-9](?=[^\S\n]+(?![mc]m\b|x\b)[a-z])|unknown\b|n/?a\b)",
    re.I | re.M,
)
_AGE_BELOW_SEX = re.compile(rf"(?P<value>{_AGE}|[0-9]{{1,3}})(?=[^\w\n]*$)", re.I | re.M)
_AGE_FIRST = re.compile(rf"(?P<value>[0-9]{{1,3}}(?={_SEX_NEXT})|{_AGE}(?={_STOP}|{_SEX_NEXT}))", re.I | re.M)
_GAP = re.compile(r"[\W_]*(?:an?\s+(?=[0-9]))?", re.I)
_END_OF_HEAD = re.compile(r"[\s,;:.|/\-)\]}\uff0c\uff1a\uff1b\u3002]*")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f\ufeff]+")


def parse_reading(text: str | None) -> Reading:
    """Return sex, age and findings of a Montgomery or Shenzhen reading; None for each that cannot be read.

    Reads "Patient's Sex: F / Patient's Age: 031Y / ..." and "male 46yrs / ..." in any order, spacing and capitals,
    misspelt sexes ("femal") too. Months, weeks and days are fractions of a year (64 days is 0.175). An age without
    unit is in years; one of 0 (DICOM's unknown) or over 120 is None. Sex and age are read at the head of the first
    line that has both, else of the first line, so a number inside the findings is not the age. `findings` is the rest
    as written, its white space tidied and its lines joined by "; ".
    """
    tidy = (_BLANK.sub(" ", line).strip() for line in (text or "").splitlines())
    text = "\n".join(line for line in tidy if line)
    starts = (0, *(line.end() for line in re.finditer(r"\n(?=.*\w)", text)))
    heads = [(start, *_head(text, start)) for start in starts]
    start, values, end = next((head for head in heads if len(head[1]) == 2), heads[0])
    lines = (line.strip(" ;") for line in f"{text[:start]}\n{text[end:]}".split("\n"))
    findings = "; ".join(line for line in lines if re.search(r"[^\W_]", line)) or None
    return Reading(_sex_of(values.get("sex", ""), fuzzy=True), _years(values.get("age", "")), findings)


def _head(text: str, start: int) -> tuple[dict[str, str], int]:
    """Return sex and age as written, by name, at `start` of a text, and where the text after them begins."""
    values: dict[str, str] = {}
    end = start
    while len(values) < 2:
        here = _end_of(_GAP, text, end)
        below = "\n" in text[end:here]
        plain_age = _AGE_FIRST if "sex" not in values else _AGE_BELOW_SEX if below else _AGE_BEHIND_SEX
        sex = _LABELLED_SEX.match(text, here) or _SEX.match(text, here)
        age = _LABELLED_AGE.match(text, here) or plain_age.match(text, here)
        if sex and sex.re is not _LABELLED_SEX and not _sex_of(sex["value"], fuzzy=sex["alone"] is not None):
            sex = None
        if sex and "sex" not in values:
            values["sex"], end = sex["value"], sex.end()
        elif age and "age" not in values:
            values["age"], end = age["value"], age.end()
        else:
            break
    return values, _end_of(_END_OF_HEAD, text, end) if values else start


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Return where the match at `start` ends; `start` without one."""
    match = pattern.match(text, start)
    return match.end() if match else start


def _sex_of(word: str, fuzzy: bool) -> str | None:
    """Return the sex a word names; with `fuzzy` also by one letter, or misspelt with three quarters of the letters."""
    word = word.lower()
    if word in _SEX_WORDS and (fuzzy or len(word) > 1):
        return _SEX_WORDS[word]
    closeness, sex = max((SequenceMatcher(None, word, sex).ratio(), sex) for sex in ("female", "male"))
    return sex if fuzzy and closeness >= 0.75 else None


def _years(age: str) -> float | None:
    """Return the years in "16month", "1yr 2 months", "45"; None where there is no number in (0, 120]."""
    spans = re.findall(r"([0-9]+(?:[.,][0-9]+)?)[\W_]*([a-z]?)", age.lower())
    days = sum(float(number.replace(",", ".")) * _DAYS.get(unit, _DAYS["y"]) for number, unit in spans)
    return days / _DAYS["y"] if 0 < days <= 120 * _DAYS["y"] else None


PRESENCES = ("absent", "uncertain", "present")
SIDES, ZONES = ("left", "right", "bilateral"), ("upper", "middle", "lower")
ACTIVITIES = ("active", "inactive", "treated", "unknown")


class Findings(NamedTuple):
    """What a radiologist's findings say of the X-ray as a whole, in fixed words; None where they do not say it.

    `side` and `zones` (in the order of `ZONES`) are those of all that is not absent. `activity` is None for a normal
    X-ray alone. Each finding is one of `PRESENCES`. `RADLEX` maps them to RadLex.
    """

    side: str | None = None
    zones: tuple[str, ...] = ()
    activity: str | None = None
    cavity: str | None = None
    nodule: str | None = None
    infiltrate: str | None = None
    miliary: str | None = None
    effusion: str | None = None
    pleural_thickening: str | None = None
    fibrosis: str | None = None
    calcification: str | None = None
    atelectasis: str | None = None
    adenopathy: str | None = None
    pneumothorax: str | None = None

    @property
    def present(self) -> list[str]:
        """Names of the findings that are present, in the order of the fields."""
        return [name for name in FINDING_NAMES if getattr(self, name) == "present"]


FINDING_NAMES = Findings._fields[3:]
# Ids of RadLex, each found to say the same in two sources or more; None where that was not so.
RADLEX: dict[str, str | None] = dict.fromkeys(FINDING_NAMES) | {
    "left": "RID5824",
    "right": "RID5825",
    "bilateral": "RID5771",
    "nodule": "RID50149",  # pulmonary nodule
    "effusion": "RID34539",  # pleural effusion
    "fibrosis": "RID3820",
    "calcification": "RID5196",
    "atelectasis": "RID28493",
    "adenopathy": "RID3798",  # lymphadenopathy
    "pneumothorax": "RID5352",
}
FINDINGS_FEATURES = datasets.Features(
    {
        "side": datasets.ClassLabel(names=list(SIDES)),
        "zones": [datasets.Value("string")],
        "activity": datasets.ClassLabel(names=list(ACTIVITIES)),
        **{name: datasets.ClassLabel(names=list(PRESENCES)) for name in FINDING_NAMES},
    }
)

# Short forms, and phrases that are about something else than the lungs' findings.
_REWRITTEN = [
    (re.compile(pattern), by)
    for pattern, by in {
        r"[\uff0c\u3001]": ",",
        r"[\uff1b\u3002]": ";",
        r"[\uff1f\u00bf]": "?",
        r"\s*\(\s*\?\s*\)": "?",
        r"\s*\(\s*-\s*\)|\(neg\w*\)": " negative",
        r"\s*\(\s*\+\s*\)": "",
        r"\bw/o\b": "without",
        r"\bh/o\b": "history of",
        r"\bb/l\b|\bbilat\b\.?": "bilateral",
        r"\br/o\b|\bruling out\b": "rule out",
        r"\bc/w\b": "consistent with",
        r"\bs/p\b": "after",
        r"\ban?/or\b": "or",
        r"(?<=[0-9])\.(?=[0-9])": "",
        r"\b([lr])\.\s?([uml])\.\s?([lz])\b\.?": r"\1\2\3",
        r"\b(?:rt|r)\.?(?=\W)(?!['/])": "right",
        r"\b(?:lt|l)\.?(?=\W)(?!['/])": "left",
        r"(?:pleural|chest|thoracic|body) cavit(?:y|ies)|pericardial (?:effusion|fluid|thickening|calcification)": "",
        r"air[- ]fluid levels?": "",
        r"(?:hydro|pyo|ha?emo)pneumothora\w+": "pneumothorax and effusion",
        r"(?:scolio|shift|deviat|rotat)\w*\s+(?:of (?:the )?\w+ )?(?:is |slightly )?to(?:wards?)?"
        r" (?:the )?(?:left|right)": "",
        r"\bpcp (?:treatment|therapy|rx)|contact (?:with|to|of) (?:an? |the )?active": "",
    }.items()
]
# What misspelt words are taken for, by their first letter and four fifths of the others; the others of them, not.
_SPELLED = re.findall(
    r"\w+",
    """infiltrate infiltrates infiltration cavity cavities cavitary cavitation cavitating nodule nodules nodular
granuloma granulomas tuberculoma miliary effusion effusions pleural pleura pleurisy pleuritis thickening thickened
fibrosis fibrotic fibrous scars scarring calcification calcifications calcified atelectasis adenopathy lymphadenopathy
pneumothorax bilateral bilaterally right left upper middle lower apical lingula active inactive treated treatment
without hematogenous disseminated consolidation opacity pneumonia normal""",
)
_OTHER_WORDS = ("node", "nodes", "granular", "normally", "actively", "opacities", "treat", "treats")
_STRONG = {  # words that name a finding
    "pneumothorax": r"pneumothora\w+",
    "effusion": r"effusion\w*|(?:hydro|pyo|ha?emo)thora\w+|empyema\w*|\bfluids?\b",
    "pleural_thickening": r"pleur\w+[- ]+(?:\w+[- ]+)?(?:thick\w*|scar\w*|fibros\w*|plaques?|peel)|fibrothorax"
    r"|(?:apical|fissur\w*) (?:pleur\w+ )?(?:thick\w+|cap\b)|thick\w* (?:of )?(?:the )?(?:\w+ )?(?:pleur|fissur)\w+",
    "cavity": r"cavit\w+|cavern\w+",
    "miliary": r"miliary(?: nodul\w+)?|ha?ematogen\w+",
    "calcification": r"calcif\w+(?: (?:hilar |mediastinal )?(?:lymph )?nodes?)?",
    "nodule": r"(?:micro)?nodul\w+|granulom\w+|tuberculoma\w*|coin lesions?",
    "infiltrate": r"infiltr\w+|consolidat\w+|opaci\w+|exudat\w+|air ?space disease",
    "fibrosis": r"fibro(?!thorax)\w+|scar(?:s|red|ring)?\b|cicatri\w+",
    "atelectasis": r"atelecta\w+|collaps\w+|volume loss|loss of volume",
    "adenopathy": r"(?:lymph)?adenopath\w+|lymph nodes?|(?:hilar|mediastinal|paratracheal) (?:lymph )?nodes?",
}
_WEAK = {  # words that an X-ray mostly shows as a finding, but that do not name it
    "effusion": r"pleurisy|pleuritis|pleural (?:tb|tuberculosis)|tb (?:of|on) (?:the )?pleura|blunt(?:ing|ed)",
    "pleural_thickening": r"adhesions?|pleural changes?|blunt(?:ing|ed)",
    "infiltrate": r"pneumonia|(?<!tb )infection",
}
_ACTIVITY = {
    "inactive": r"inactiv\w+|non[- ]?activ\w+|natb|quiescent|arrested|healed|sequela\w*"
    r"|old (?:\w+ )?(?:tb|ptb|disease)",
    "active": r"\b(?:re)?activ(?:e|ity|ation|ated)\b|\batb\b|(?:smear|culture|sputum|afb)\w*"
    r"(?: is| are)? (?:positive|pos\b)|positive (?:\w+ )?(?:smear|culture|sputum|afb)",
    "treated": r"\b(?:re)?treat\w*|\brx\b|therapy|chemotherapy|\bhrz\w*|\bon hr\b|\binh\b",
}
_PLACE = {
    "left": r"\bleft\b|\bl[uml][lz]\b|\bll\b|lingul\w*",
    "right": r"\bright\b|\br[uml][lz]\b|\brl\b",
    "bilateral": r"bilateral\w*|\bbi(?:apical|basal|basilar)\w*|\bboth (?:the )?(?:\w+ )?(?:lungs?|lobes?|zones?"
    r"|fields?|apices|bases|sides?|hemithora\w+|upper|middle|lower|pleura\w*)|either side",
    "upper": r"\bupper\b|\b[lr]u[lz]\b|\b(?:bi)?apical\b|\bapex\b|\bapices\b",
    "middle": r"\bmid(?:dle)?\b(?![- ]?clav)|\b[lr]m[lz]\b|lingul\w*",
    "lower": r"\blower\b|\b[lr]l[lz]\b|\bbases?\b|\b(?:bi)?bas(?:al|ilar)\b",
}
_OTHER_PLACE = r"(?! (?:abdom|extrem|rib|mediast|limb|quadr|spin|thoracic spin))"
_TERMS = [
    (re.compile(rf"(?:{pattern}){_OTHER_PLACE if kind == 'place' else ''}"), kind, name)
    for kind, words in {"finding": _STRONG, "weak": _WEAK, "activity": _ACTIVITY, "place": _PLACE}.items()
    for name, pattern in words.items()
]
_NOT_ALL = r"(?:not|partial\w*|partly|near\w*|almost|mostly|largely|incomplete\w*|somewhat)"
_GONE = r"(?:closed|resolved|cleared|disappeared|gone|vanished)(?! (?:partial|partly|somewhat|mostly|in part))"
_ITEM_END = r"(?=\W*(?:$|,|and\b|on\b|in\b|now\b|since\b|bilateral))"
# What changes the sense of the terms behind it (no, maybe), before it (gone), on either side (perhaps), or of none.
_CUE_WORDS = {
    "none": r"\b(?:no|without)(?: (?:any|significant|interval|definite|real|apparent|much))* (?:change|improve|increas"
    r"|decreas|progress|differ|wors|further)\w*|\bno comparison|activity (?:is )?(?:unknown|undetermined|uncertain)"
    rf"|\b{_NOT_ALL}(?: \w+)? (?:{_GONE}|clear\w*|resol\w+|changed|improved)",
    "perhaps": r"\b(?:likely|unlikely|possibl[ey]|possibility|probabl[ey]|questionabl[ey]|suspicio\w+|suspect\w*"
    r"|unclear|equivocal|doubtful|uncertain|undetermined|indeterminate|not (?:clear|certain|sure|excluded|ruled out)"
    r"|(?:(?:can|could|is|are) ?not|can't)(?: be)? (?:\w+ )?(?:exclude\w*|ruled? out))|\?",
    "maybe": r"\b(?:rule out|may|might|could (?:be|represent)|suggest\w*|concern\w* (?:for|of)|no new|history of|vs"
    r"|question of|versus|(?:previous(?:ly)?|prior)"
    r"(?!.{0,99}\b(?:improv|unchang|stable|persist|again|decreas|increas|less|larger|smaller|wors)))\b",
    "gone": r"\b(?:(?:has|have|had|is|are|was|were|been|be|now|also|completely|fully|totally) ){0,4}(?:no longer"
    rf"|absent|not (?:seen|visible|present|identified|evident|noted|found|detected|apparent)|{_GONE}|ruled out"
    rf"|excluded|(?:negative|unremarkable|none|nil|normal|clear){_ITEM_END})\b|[:=-] ?no\b(?=\W*(?:$|,))",
    "no": r"\b(?:no(?: known)?(?: history of| previous| prior)?|not|without|nor|neither|never|denies|absence of"
    r"|lack of|free (?:of|from)|clear of|negative for|(?:complete \w+|resolution|disappearance|closure) of)\b"
    r"|\bnon[- ]?(?=cavit|calcif|nodul|miliar)",
}
_CUES = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _CUE_WORDS.items()))
_SENTENCE_END = re.compile(r"[;\n()/]|[.](?![0-9])|\b(?:but|however|although|though|except(?: for)?|apart from)\b")
_FILLER = r"(?:and|or|nor|a|an|the|any|pleural|hilar|focal|acute|definite|obvious|significant|other|evidence|signs|of)"
_ITEM = re.compile(r"(?P<by>,|\band\b|\bwith\b|)(?P<said>(?:(?!,|\band\b|\bwith\b).)+)")
_BARE = re.compile(rf"[\s,]*(?:{_FILLER}\b[\s,]*)*")
_JOINED = re.compile(rf"\s*|(?:\s*,)?\s*(?:and|or|nor|&)?\s*(?:{_FILLER}\s+)*")
_NORMAL = re.compile(
    r"\W*(?:(?:essentially|grossly|lungs?|chest|cxr|x-?ray|is|are) )*(?:normal|unremarkable)"
    r"(?=\W*(?:$|,|chest|cxr|x-?ray|lungs|study|fi(?:lm|eld)|exam|radiograph))|\W*no(?:thing)? abnormal"
    r"|\W*(?:both )?lungs? (?:fields? )?(?:are |is )?clear\W*(?:$|,)"
)


def parse_findings(text: str | None) -> Findings:
    """Return what findings (of `parse_reading`) say, in fixed words.

    "No", "without", "cleared", "closed" and their like make a finding absent; "?", "possible", "likely", "suspicious"
    and their like uncertain. So do a history of it, and words that an X-ray mostly but not always shows so: pleurisy
    (effusion), blunted angle (effusion, pleural thickening), adhesions (pleural thickening), pneumonia (infiltrate). A
    finding that is said twice is present before uncertain before absent. In a normal X-ray, those not named are
    absent. Lobes count as zones: upper, middle (the lingula, too), lower. Misspelt words are read.

    Disease that is called active, or positive in smear or culture, is active; else one that is called inactive, old or
    healed is inactive; else one during or after treatment is treated. Doubtful activity is unknown.
    """
    if not text:
        return Findings()
    text = f" {_BLANK.sub(' ', text.lower())} "
    for pattern, by in _REWRITTEN:
        text = pattern.sub(by, text)
    text = re.sub(r"[a-z]{4,}", lambda word: _spelled(word[0]), text)
    said: dict[str, str] = {}
    sentences = _SENTENCE_END.split(text)
    for name, presence in chain.from_iterable(map(_said, sentences)):
        said[name] = max(presence, said.get(name, presence), key=PRESENCES.index)
    is_normal = any(map(_NORMAL.match, sentences))
    shown = {name for name, presence in said.items() if presence != "absent"}
    if "treated" in shown:  # a history of it, too
        said["treated"] = "present"
    activity = next((name for name in ACTIVITIES if said.get(name) == "present"), "unknown")
    if activity != "inactive" and said.get("active") == "absent":
        activity = "inactive"
    both = "bilateral" in shown or {"left", "right"} <= shown
    side = "bilateral" if both else next((side for side in SIDES if side in shown), None)
    findings = {name: said.get(name, "absent" if is_normal else None) for name in FINDING_NAMES}
    is_well = is_normal and not shown
    return Findings(side, tuple(zone for zone in ZONES if zone in shown), None if is_well else activity, **findings)


@lru_cache(4096)
def _spelled(word: str) -> str:
    """Return the word of the vocabulary that a misspelt one is close to; itself where there is none."""
    if word in _OTHER_WORDS or any(pattern.fullmatch(word) for pattern, *_ in _TERMS):
        return word
    close = get_close_matches(word, [one for one in _SPELLED if one[0] == word[0]], 1, 0.8)
    return close[0] if close else word


class _Term(NamedTuple):
    """Where a sentence says what: kind finding, weak, activity or place."""

    start: int
    end: int
    kind: str
    name: str


def _said(sentence: str) -> Iterator[tuple[str, str]]:
    """Yield what a sentence names, each with one of `PRESENCES`."""
    cues, terms = list(_CUES.finditer(sentence)), []
    taken = {at for cue in cues if cue.lastgroup == "none" for at in range(*cue.span())}
    for pattern, kind, name in _TERMS:
        for match in pattern.finditer(sentence):
            places = set(range(*match.span()))
            if kind in ("place", "weak") or not taken & places:
                terms.append(_Term(*match.span(), kind, name))
            if kind in ("finding", "activity"):
                taken |= places
    terms.sort()
    spans, until = list[tuple[int, int, str]](), len(sentence)
    ends = [0, *(cue.end() for cue in cues)]
    for cue, since in zip(reversed(cues), reversed(ends[:-1]), strict=True):
        if cue.lastgroup != "none":
            spans.append(_span(sentence, cue, since, until, terms))
        if cue.lastgroup in ("no", "maybe"):
            until = cue.start()
    for term in terms:
        presence = next((p for start, end, p in spans if start <= term.start < end), "present")
        yield term.name, "uncertain" if term.kind == "weak" and presence == "present" else presence


def _span(sentence: str, cue: re.Match[str], since: int, until: int, terms: list[_Term]) -> tuple[int, int, str]:
    """Return the part of a sentence that a cue is about, as start and end, and what it makes of the terms there.

    The cue before ends at `since`, the next that is about what follows it begins at `until`.
    """
    kind, comma = cue.lastgroup, sentence.find(",", cue.end(), until)
    item_end = until if comma < 0 else comma
    if kind == "no":
        end = _end_of_list(sentence, cue.end(), until, terms)
        if cue[0].startswith("non"):  # of a single word
            end = min(end, next((term.end for term in terms if term.start >= cue.end()), end))
        return cue.start(), end, "absent"
    named = [term for term in terms if term.kind != "place"]
    is_followed = any(cue.end() <= term.start < item_end for term in named)
    is_behind = cue[0] == "?" and sentence[cue.start() - 1 : cue.start()].isalpha()
    if kind == "gone":
        item_start = sentence.rfind(",", since, cue.start())
        is_behind = any(max(item_start, since) <= term.start < cue.start() for term in named)
    presence = "absent" if kind == "gone" else "uncertain"
    if kind == "maybe" or (is_followed and not is_behind):
        return cue.start(), item_end, presence
    start = _start_of(sentence, since, cue.start(), named)
    return start, cue.start() if is_followed else item_end, presence


def _start_of(sentence: str, since: int, end: int, named: list[_Term]) -> int:
    """Return where that begins which a cue at `end` is about: the last term named, and those listed with it."""
    before = [term for term in named if since <= term.start and term.end <= end]
    first = len(before) - 1
    while first > 0 and _JOINED.fullmatch(sentence, before[first - 1].end, before[first].start):
        first -= 1
    if first > 0:
        since = before[first - 1].end
    breaks = re.finditer(r",|\b(?:and|with)\b", sentence[since : before[first].start if before else end])
    return max((since + match.end() for match in breaks), default=since)


def _end_of_list(sentence: str, start: int, until: int, terms: list[_Term]) -> int:
    """Return where the list behind a "no" ends: before an item that says more than a finding's name, or "with"."""
    items = [match for match in _ITEM.finditer(sentence, start, until)]
    held = [[term for term in terms if item.start() <= term.start < item.end()] for item in items]
    closing = 0  # the last item with an "or"
    for index, (item, inside) in enumerate(zip(items, held, strict=True)):
        end_of_list = re.search(r"\b(?:or|nor)\b", item[0])
        at = item.start() + (end_of_list.start() if end_of_list else 0)
        if end_of_list and not any(term.kind == "place" and term.start < at for term in inside):
            closing = index
    is_of_findings = any(term.kind in ("finding", "weak") for term in held[0]) if held else False
    for index, (item, inside) in enumerate(zip(items, held, strict=True)):
        rest = item["said"]
        for term in inside:
            rest = rest.replace(sentence[term.start : term.end], "") if term.kind in ("finding", "weak") else rest
        is_bare = bool(is_of_findings and inside and _BARE.fullmatch(rest))
        is_place = item["by"] == "and" and all(term.kind == "place" for term in inside)
        if item["by"] == "with" or (index > closing and not (is_bare or is_place)):
            return item.start()
    return until


def split_of(patient_id: str) -> str:
    """Return a patient's split: train (70 %), validation (10 %) or test (20 %), a pure function of `patient_id`."""
    digest = hashlib.sha256(f"{SPLIT_SALT}:{patient_id}".encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    return SPLITS[(fraction >= 0.7) + (fraction >= 0.8)]


class SetFile(NamedTuple):
    """One file of the set: its role, its image's id, and where it is (a path, or a member of the zip `path`)."""

    role: str  # image, mask, left_mask, right_mask, reading, test_copy, table
    id: str  # empty of a table
    path: str
    member: str  # empty outside a zip
    size: int  # bytes
    stamp: int  # modification time in ns; in a zip the member's CRC-32

    @property
    def name(self) -> str:
        """Return the path as people see it: `folder/file.png` or `archive.zip/folder/file.png`."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def kind(self) -> str:
        """Return the suffix in lower case: png, dcm, ..."""
        return self.name.rpartition(".")[2].lower()

    @property
    def folder(self) -> str:
        """Return the path without the file's name, with slashes."""
        return re.split(r"[\\/][^\\/]*$", self.name)[0].replace("\\", "/")

    @property
    def rank(self) -> int:
        """Return 0 for what is preferred: an original PNG to other PNGs, these to DICOM, TIFF and, last, JPEG."""
        is_elsewhere = self.role == "image" and _leaf(self.folder) != "cxr_png"
        return 2 * _KINDS.get(self.kind, 0) + (is_elsewhere and self.kind == "png")


@dataclass
class Tree:
    """Every file of the set under `root`, best copy first, and the files that cannot be read as (name, message)."""

    root: str
    files: list[SetFile] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    tables: list[SetFile] = field(default_factory=list)  # `*metadata.csv`: sex, age and findings of many images
    others: list[SetFile] = field(default_factory=list)  # named like files of the set, in no place or form of theirs
    lesions: list[SetFile] = field(default_factory=list)  # polygons (.json) and masks of single lesions

    def chosen(self) -> dict[tuple[str, str], SetFile]:
        """Return one file per (role, id), so that no copy counts twice."""
        return {(file.role, file.id): file for file in reversed(self.files)}

    def fingerprint(self, site: str | None) -> str:
        """Return a hash of the problems and of the names, sizes and times of the files used for `site` (None: all)."""
        used = sorted(row for row in self.chosen().values() if row.role != "test_copy" and _is_at(row.id, site))
        used += self.tables
        facts = [(file.role, file.id, PurePosixPath(file.member or file.path).name, *file[4:]) for file in used]
        return hashlib.sha256(repr((facts, self.problems)).encode()).hexdigest()[:16]


class Row(NamedTuple):
    """One image and the files that belong to it; the unit of sharding."""

    id: str
    patient_id: str
    image: SetFile
    masks: tuple[SetFile, ...]  # none, one, or left and right
    reading: str | None
    copies: tuple[SetFile, ...] = ()  # of image and masks: files of the same id and role that must not differ
    tabled: Reading = Reading()  # what a table says; a reading goes before it


DICOM_RANK = 2
_KINDS = {"png": 0, "dcm": 1, "dicom": 1, "tif": 2, "tiff": 2, "jpg": 3, "jpeg": 3}
_FILE_NAME = re.compile(
    r"(?P<id>(?:MCU|CHN)CXR_[0-9]+_[01])(?P<tail>(?:[ _-]?(?:mask|lungs?|left|right))*)"
    rf"\.(?P<kind>txt|{'|'.join(_KINDS)})",
    re.I | re.A,
)
_LIKE_THE_SET = re.compile(
    rf"(?P<site>MCU|CHN)CXR.*\.(?:{'|'.join(_KINDS)}|txt|jp2|bmp|gif|webp|heic)", re.I | re.A | re.S
)
_TABLE_NAME = re.compile(r"(?:.*[_ -])?metadata\.csv", re.I)
_LEFT_BEHIND = ("__macosx", ".ipynb_checkpoints")  # folders that systems make
# What a folder's name may be made of, and no other word ("images_resized" is none of the set's): mask, side, image, or
# words that say nothing of the role, so that the folder above says it (masks/left, images/train).
_WORD = re.compile(
    r"[\W_]*(?:(?P<mask>masks?)|(?P<left>left)|(?P<right>right)|(?P<image>cxrs?|images?|imgs?)|(?P<lung>lungs?)"
    r"|(?P<xray>chest|x[\W_]?rays?)|png|jpe?g|tiff?|dcm|dicom|original|raw|all|manual|merged|binary|gt|segmentations?"
    r"|train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|normal|tuberculosis|tb|montgomery|shenzhen|china|nlm|county"
    r"|hospital|mcu?|chn|sz|set|files)[\W_]*",
    re.I | re.A,
)


def _leaf(folder: str) -> str:
    """Return the name of the last folder in lower case; that of a zip without its suffix."""
    return folder.rpartition("/")[2].lower().removesuffix(".zip")


def _words_of(folder: str) -> set[str] | None:
    """Return what the words of a folder's name say (`_WORD`'s groups); None where one is unknown."""
    said: set[str] = set()
    at = 0
    while at < len(folder):
        if not (match := _WORD.match(folder, at)):
            return None
        if match.lastgroup:
            said.add(match.lastgroup)
        at = match.end()
    return said


def _role_in(folders: tuple[str, ...], tail: str) -> str | None:
    """Return image, mask, left_mask or right_mask by folders and by what stands behind the id in the file's name."""
    sides = set(re.findall("left|right", tail.lower()))
    role = "mask" if "mask" in tail.lower() else None
    for folder in reversed(folders):
        said = _words_of(folder)
        if said is None:
            break
        sides |= said & {"left", "right"}
        # a whole set may be called "chest_xray_masks"; the lungs of one side are masks, those of both may be X-rays
        if ("mask" in said and "xray" not in said) or (said & {"left", "right"} and "lung" in said):
            role = "mask"
        elif role is None and said & {"image", "xray"} and "mask" not in said:
            role = "image"
        if said & {"mask", "image", "xray"}:
            break
    if role == "mask" and sides:
        return f"{sides.pop()}_mask" if len(sides) == 1 else None
    return None if sides or (tail and role != "mask") else role


def _role_of(folders: tuple[str, ...], name: str) -> tuple[str, str] | None:
    """Return (role, id) of a file in any of the known layouts; ("other", site) for one that is only named alike."""
    if _is_of_lesions(folders, name):
        return "lesion", name
    if any(folder.lower() in _LEFT_BEHIND for folder in folders):
        return None
    if _TABLE_NAME.fullmatch(name) and not name.startswith("._"):
        return "table", ""
    if not (match := _FILE_NAME.fullmatch(name)):
        return ("other", alike["site"].upper()) if (alike := _LIKE_THE_SET.fullmatch(name)) else None
    kind, folder, tail = match["kind"].lower(), folders[-1].lower() if folders else "", match["tail"]
    above = folders[-2].lower() if folders[1:] else ""
    if kind == "txt":
        role = None if tail else "reading"
    elif folder == "test" and above not in ("cxr_png", "image", "images", "img", "mask", "masks"):
        role = None if tail else "test_copy"  # of images that stand in CXR_png too
    else:
        role = _role_in(folders, tail)
        if _KINDS[kind] == 1:  # no layout has masks in DICOM, nor anything else
            role = None if tail or role != "image" and role else "image"
    return (role or "other", match["id"].upper())


_ON_HUB = re.compile(r"(?:hf://|https?://(?:huggingface\.co|hf\.co)/)datasets/([^/@]+/[^/@?]+)")


def scan(source: str | Path) -> Tree:
    """List every file of the set in a folder (zips in it too), a zip, or a zip's URL; only names and sizes are read.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: it is neither folder nor file, but a FIFO, a socket or a device; nothing; or a data set on the Hub.
        ConnectionError: the URL cannot be reached.
    """
    tree = Tree(str(source))
    if not tree.root:
        raise ValueError("data_dir is empty: pass the folder or the zip that holds the set, or none to download it")
    if (on_hub := _ON_HUB.match(tree.root)) and not tree.root.endswith(".zip"):
        raise ValueError(f'data_dir {source} is a data set on the Hub: call datasets.load_dataset("{on_hub[1]}")')
    if "://" in tree.root:
        _scan_url(tree)
    elif (root := Path(os.path.realpath(Path(source).expanduser()))).is_dir():
        _scan_folder(tree, root)
    elif os.path.lexists(root):
        regular_size(root)
        _scan_zip(tree, str(root), (root.stem,))
    else:
        is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", tree.root)
        hub = f'; a data set on the Hub is load_dataset("{source}")' if is_id else ""
        pass_on = f"pass the folder or the zip that holds the set{hub}"
        raise FileNotFoundError(f"data_dir {source} does not exist: {pass_on}")
    # prefer PNG to DICOM, unzipped to zipped, shallow to deep
    tree.files.sort(key=lambda f: (f.role, f.id, f.rank, bool(f.member), len(f.name), f.name))
    tree.tables.sort(key=lambda file: file.name)
    return tree


def _scan_folder(tree: Tree, root: Path) -> None:
    """Add the files of a folder and of all below it to `tree`.

    Links are followed, but into no folder above, nor a second time into one under the same name, which tells the role.
    """
    waiting: list[tuple[str, tuple[str, ...], tuple[tuple[int, int], ...]]] = [(str(root), (root.name,), ())]
    seen: set[tuple[int, int, str]] = set()
    while waiting:
        folder, inside, above = waiting.pop()
        try:
            state = Path(folder).stat()
            here = state.st_dev, state.st_ino
            if here in above or (*here, inside[-1]) in seen:
                continue
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            tree.problems.append((folder, f"cannot be read ({error.strerror}): allow it to be read"))
            continue
        seen.add((*here, inside[-1]))
        folders = [entry for entry in entries if _scan_entry(tree, entry, inside)]
        waiting += [(entry.path, (*inside, entry.name), (*above, here)) for entry in reversed(folders)]


def _scan_entry(tree: Tree, entry: os.DirEntry[str], inside: tuple[str, ...]) -> bool:
    """Add a file, or the members of a zip, to `tree`; return whether the entry is a folder to look into."""
    stem, _, suffix = entry.name.rpartition(".")
    found = _role_of(inside, entry.name)
    try:
        if entry.is_dir() and (not found or found[0] == "other"):
            return entry.name.lower() not in _LEFT_BEHIND
        if suffix.lower() == "zip" and not stem.startswith("._"):
            _scan_zip(tree, entry.path, (*inside, stem))
        elif found and found[0] == "other":
            tree.others.append(SetFile(*found, entry.path, "", 0, 0))
        elif found:
            regular_size(entry.path)
            facts = entry.stat()
            _add(tree, SetFile(*found, entry.path, "", facts.st_size, facts.st_mtime_ns))
        elif "." not in entry.name:  # a link to nowhere may have been one to a folder
            entry.stat()
    except OSError as error:
        tree.problems.append((entry.path, f"cannot be read ({error.strerror}): replace it by a sound copy"))
    except ValueError as error:
        tree.problems.append((entry.path, str(error).removeprefix(f"{entry.path} ")))
    return False


ZIP_ERRORS = (zipfile.BadZipFile, ValueError, NotImplementedError)  # of opening and listing a damaged zip


def _scan_zip(tree: Tree, path: str, inside: tuple[str, ...]) -> None:
    """Add a zip's members to `tree`; a broken zip or an unsafe member name becomes a problem."""
    try:
        with _open_zip(path) as archive:
            members = [member for member in zip_members(archive) if not member.is_dir()]
    except (OSError, *ZIP_ERRORS) as error:
        if "://" in path and not isinstance(error, zipfile.BadZipFile):
            raise
        tree.problems.append((path, f"is not a whole zip ({error}): download it again, or pass the unzipped folder"))
        return
    for member in members:
        *folders, name = member.filename.replace("\\", "/").split("/")
        stem, _, suffix = name.rpartition(".")
        if ".." in folders or (folders and re.fullmatch(r"|[a-z]:", folders[0], re.I)):
            tree.problems.append((f"{path}/{member.filename}", "has an unsafe path in the zip: get the zip again"))
        elif suffix.lower() == "zip" and not stem.startswith("._") and "__MACOSX" not in folders:
            tree.problems.append((f"{path}/{member.filename}", "is a zip in a zip, which is not read: unpack it"))
        elif found := _role_of((*inside, *folders), name):
            _add(tree, SetFile(*found, path, member.filename, member.file_size, member.CRC))


def _add(tree: Tree, file: SetFile) -> None:
    {"table": tree.tables, "other": tree.others, "lesion": tree.lesions}.get(file.role, tree.files).append(file)


def _scan_url(tree: Tree) -> None:
    """Add the members of the zip behind the URL `tree.root`, tried once: datasets would try for 100 seconds."""
    config = datasets.config
    tries, config.STREAMING_OPEN_MAX_RETRIES = getattr(config, "STREAMING_OPEN_MAX_RETRIES", 1), 1
    try:
        _scan_zip(tree, tree.root, ())
    except Exception as error:  # each transport has its own
        cause = error.__cause__ or error
        way_out = 'pass a folder or a zip of this machine; a data set on the Hub is load_dataset("<owner>/<name>")'
        raise ConnectionError(f"{tree.root} cannot be reached ({type(cause).__name__}: {cause}): {way_out}") from error
    finally:
        config.STREAMING_OPEN_MAX_RETRIES = tries


def _open_zip(path: str) -> zipfile.ZipFile:
    """Open a zip on disk or behind a URL."""
    if "://" in path:
        return zipfile.ZipFile(xopen(path, "rb"))
    regular_size(path)
    return zipfile.ZipFile(path)


def zip_members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the files and folders of a zip; raise BadZipFile for one without a name, as a damaged zip may list."""
    members = archive.infolist()
    if not all(member.filename for member in members):
        raise zipfile.BadZipFile("one of its files has no name")
    return members


def regular_size(path: str | Path) -> int:
    """Return the size in bytes of a file; of a FIFO, socket or device, which may never end, none is read.

    Raises:
        OSError: there is none, or its folder may not be entered.
        ValueError: it is not a regular file.
    """
    facts = Path(path).stat()
    if stat.S_ISDIR(facts.st_mode):
        raise ValueError(f"{path} is a folder: pass the file of one X-ray")
    if not stat.S_ISREG(facts.st_mode):
        kind = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}.get(stat.S_IFMT(facts.st_mode), "a device")
        raise ValueError(f"{path} is {kind}: put a regular file in its place")
    return facts.st_size


def read_file(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `limit`; raises as `regular_size`, and ValueError for more."""
    if (size := regular_size(path)) > limit:
        raise ValueError(f"{path} has {size} bytes, more than {limit}: get a sound copy")
    with Path(path).open("rb") as file:
        return file.read(size)


def read_member(archive: zipfile.ZipFile, member: str, name: str, limit: int = MAX_BYTES, count: int = -1) -> bytes:
    """Return the bytes, or the first `count`, of a zip's member, called `name` in errors, in bounded time and memory.

    Raises:
        ValueError: it is damaged, encrypted, of more than `limit` bytes or `MAX_RATIO`, or packed by another method
            than deflate, which could unpack a few bytes to any number.
    """
    try:
        info = archive.getinfo(member)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"packed by method {info.compress_type}, not by deflate")
        if info.header_offset + info.compress_size > archive.start_dir:
            raise ValueError(f"it claims {info.compress_size} packed bytes, more than the zip holds")
        if count < 0 and info.file_size > min(limit, max(MIN_BOUND, MAX_RATIO * info.compress_size)):
            raise ValueError(f"it would unpack to {info.file_size} bytes, more than it may have")
        with archive.open(info) as file:
            return file.read(count)
    except Exception as error:  # each kind of compression has its own
        raise ValueError(f"{name} cannot be read from its zip ({error}): get the zip again") from error


def rows_of(tree: Tree, site: str | None = None, say: bool = True) -> list[Row]:
    """Return one row per image of `site` (None: both), sorted by id, each with its patient, masks and reading.

    What is named like the set and not used is said in a warning, unless `say` is False.

    Raises:
        ValueError: the tree holds a cut zip, a member with an unsafe path, or two tables that differ.
        FileNotFoundError: it holds no image of the site.
    """
    for name, message in tree.problems:
        raise ValueError(f"{name} {message}")
    chosen = {key: file for key, file in tree.chosen().items() if _is_at(file.id, site)}
    ids = sorted(id for role, id in chosen if role == "image")
    if not ids:
        raise FileNotFoundError(f"no {site or 'Montgomery or Shenzhen'} chest X-rays in {nothing_in(tree, site)}")
    if say:
        _say(_unused_said(tree, site))
    _say_kind(tree, chosen)
    copies: dict[SetFile, list[SetFile]] = {}  # of each file in use, itself among them
    for file in tree.files:
        used = chosen.get((file.role, file.id))
        if used and (file.rank == used.rank or file.role.endswith("mask")):
            copies.setdefault(used, []).append(file)
    with Reader() as reader:
        texts = {id: file for (role, id), file in chosen.items() if role == "reading"}
        readings = {id: decode_text(reader.checked(file, copies[file])) for id, file in texts.items()}
        tabled = read_tables(tree, reader)
    if wrong := [id for id in ids if id in tabled and tabled[id].doubt and id not in readings]:
        _say(f"sex or age of {', '.join(wrong)} are known to be wrong in *metadata.csv: corrected, or None")
    findings = {id: one.facts.findings or "" for id, one in tabled.items()}
    patients = patients_of(findings | readings)
    rows = []
    for id in ids:
        masks = [chosen[role, id] for role in ("mask", "left_mask", "right_mask") if (role, id) in chosen]
        if masks and masks[0].role == "mask":
            masks = masks[:1]
        elif len(masks) == 1:
            _say(f"{masks[0].name} is one lung of two: {id} has no mask")
            masks = []
        image = chosen["image", id]
        same = tuple(one for file in (image, *masks) if len(copies[file]) > 1 for one in copies[file])
        facts = tabled[id].facts if id in tabled else Reading()
        rows.append(Row(id, patient_of(id, patients), image, tuple(masks), readings.get(id), same, facts))
    return rows


def _say_kind(tree: Tree, chosen: dict[tuple[str, str], SetFile]) -> None:
    """Warn of X-rays alone, and of copies in JPEG."""
    if all(role in ("image", "test_copy") for role, _ in chosen) and not (tree.others or tree.tables):
        _say(f"{tree.root} has X-rays but no mask and no reading: if they are beside it, pass the folder above")
    if lossy := sum(file.role == "image" and file.kind in ("jpg", "jpeg") for file in chosen.values()):
        _say(f"{lossy} X-rays of {tree.root} are .jpg copies, which lose detail: get the original .png or .dcm files")


def _say(message: str) -> None:
    if message:
        datasets.logging.get_logger(__name__).warning("%s", message)


class Unused(NamedTuple):
    """Files of a folder that are named like the set's and not used; `kind` is other, orphan or copy."""

    folder: str
    kind: str
    message: str


def unused(tree: Tree, site: str | None = None) -> list[Unused]:
    """Return which files are named like those of `site` (None: both) and not used, by folder.

    Others are in no folder or of no name of the set's; orphans have no X-ray; copies are not compared with the file in
    use. Not among them: one lung of two (rows_of says it), readings without X-ray (the audit says it).
    """
    chosen = tree.chosen()
    prefixes = tuple(prefix[:3] for prefix, place in SITE_OF_PREFIX.items() if site in (None, place))
    counts: dict[tuple[str, str, str], int] = {}
    for file in (*tree.others, *tree.files):
        image, mask = chosen.get(("image", file.id)), chosen.get(("mask", file.id))
        if not file.id.startswith(prefixes) or file.role == "reading":
            continue
        if file.role == "other":
            kind, why = "other", "their folder or their name is not one of the set's"
        elif not image:
            kind, why = "orphan", "their X-rays are not there"
        elif file.role == "image" and file.rank != image.rank:
            kind, why = "copy", f"the X-rays are read from {_inside(tree, image)}"
        elif file.role in ("left_mask", "right_mask") and mask:
            kind, why = "copy", f"the masks are read from {_inside(tree, mask)}"
        else:
            continue
        key = _inside(tree, file), kind, why
        counts[key] = counts.get(key, 0) + 1
    found = []
    for (folder, kind, why), count in sorted(counts.items()):
        many = "1 file named like an X-ray" if count == 1 else f"{count} files named like X-rays"
        message = f"{many} of the set in {folder}/ {'is' if count == 1 else 'are'} not used ({why})"
        found.append(Unused(folder, kind, message))
    return found


def _unused_said(tree: Tree, site: str | None) -> str:
    left = [one.message for one in unused(tree, site)]
    return "; ".join(left[:5] + [f"nor are those of {len(left) - 5} more folders"] * (len(left) > 5))


def _inside(tree: Tree, file: SetFile) -> str:
    """Return the folder of a file by its name under the tree's root."""
    root = tree.root if "://" in tree.root else os.path.realpath(Path(tree.root).expanduser()).replace("\\", "/")
    return file.folder.removeprefix(root).strip("/") or root.rpartition("/")[2]


class Tabled(NamedTuple):
    """What a table says of an image, put right where it is known to be wrong; `doubt` says that it was."""

    facts: Reading
    doubt: str = ""


_COLUMNS = {
    "id": ("study_id", "image_id", "id", "filename", "file_name", "image", "file"),
    "sex": ("sex", "gender"),
    "age": ("age", "age_years"),
    "findings": ("findings", "finding", "report"),
}
# Kaggle's table of Shenzhen calls male whoever's reading does not begin with "female" in small letters, and takes
# months and days for years. Of the readings that are known these are the ones; of the last, the sex is not known.
_TABLED_MALE = dict.fromkeys(
    ("0030_0", "0044_0", "0096_0", "0638_1", "0639_1", "0641_1", "0642_1", "0644_1", "0651_1"), "female"
) | dict.fromkeys(("0647_1", "0648_1", "0649_1", "0650_1", "0652_1", "0654_1", "0656_1", "0662_1"))
_TABLED_YEARS = {("0115_0", 16.0): 16 / 12, ("0201_0", 16.0): 16 / 12, ("0202_0", 64.0): 64 / 365.25}


def read_tables(tree: Tree, read: "Reader") -> dict[str, Tabled]:
    """Return what the tables of a tree say by image id; no table of the set's images says nothing.

    Raises:
        ValueError: two tables say different things of one image.
    """
    tabled: dict[str, Tabled] = {}
    named: dict[str, str] = {}
    for file in (table for table in tree.tables if table.size <= MAX_TABLE):  # a longer one is of other images
        for id, one in _read_table(decode_text(read(file))):
            if tabled.setdefault(id, one) != one:
                raise ValueError(f"{named[id]} and {file.name} say different things of {id}: keep one")
            named.setdefault(id, file.name)
    return tabled


def _read_table(text: str) -> Iterator[tuple[str, Tabled]]:
    """Yield (image id, what is said of it) of a table; its columns are set apart by commas, semicolons or tabs."""
    heading = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=heading.count))
    names = [name.strip().lower() for name in next(rows, [])]
    at = {what: next((names.index(name) for name in known if name in names), -1) for what, known in _COLUMNS.items()}
    if at["id"] < 0:
        return
    for row in rows:
        cells = {what: row[column].strip() if 0 <= column < len(row) else "" for what, column in at.items()}
        stem = re.split(r"[\\/]", cells["id"])[-1]
        if match := re.fullmatch(r"((?:MCU|CHN)CXR_[0-9]+_[01])(?:\.\w+)?", stem, re.I | re.A):
            yield match[1].upper(), _tabled(match[1].upper(), cells)


def _tabled(id: str, cells: dict[str, str]) -> Tabled:
    """Return what the cells of a table's row say; a sex or an age in the findings goes before those beside them."""
    said = parse_reading(cells["findings"])
    sex = said.sex or _sex_of(cells["sex"], fuzzy=True)
    age = said.age_years or _years(cells["age"])
    right_sex, right_age, key = sex, age, id[-6:]
    if id.startswith("CHN"):
        right_sex = _TABLED_MALE.get(key, sex) if sex == "male" and not said.sex else sex
        right_age = _TABLED_YEARS.get((key, age or 0.0), age)
    wrong = [f"sex {sex}: {right_sex}"] if right_sex != sex else []
    wrong += [f"age {age:g}: {right_age:.3g}"] if age and right_age and right_age != age else []
    return Tabled(Reading(right_sex, right_age, said.findings), ", ".join(wrong))


def nothing_in(tree: Tree, site: str | None = None) -> str:
    """Return the root of a tree without images of `site`, what was looked for, and what was found instead."""
    looked = f"{tree.root}: looked for CXR_png/{{MCUCXR,CHNCXR}}_<number>_<0 or 1>.png at any depth"
    if left := _unused_said(tree, site):
        return f"{looked}; {left}: put X-rays into a folder CXR_png or images, and masks into masks"
    root = Path(tree.root)
    names = _names_in(root) if root.is_dir() else []
    is_saved = any(re.fullmatch(r"dataset_\w+\.json", name) for name in names)
    if is_saved or any(name.endswith(".parquet") for name in names):
        call = f'datasets.{"load_from_disk" if is_saved else "load_dataset"}("{tree.root}")'
        return f"{tree.root}: it is a data set that was built already: call {call}"
    images = [name for name in names if re.search(r"\.(?:png|jpe?g|tiff?|dcm|dicom)$", name, re.I)]
    many = f"{len(images)} images" if len(images) > 1 else "1 image"
    others = f"; {many} not named like theirs, such as {images[0]}" if images else ""
    return f"{looked}, in one of these layouts: {LAYOUTS}{others}"


def _names_in(root: Path) -> list[str]:
    """Return the names of a folder's files, and of those below it."""
    return sorted(name for _, _, names in os.walk(root) for name in names)


def patients_of(readings: dict[str, str]) -> dict[str, str]:
    """Return the patient of each id that shares one with another, by "same pt as ..." in readings by image id."""
    links = dict(SAME_PATIENT)

    def first(patient: str) -> str:
        while patient in links:
            patient = links[patient]
        return patient

    for id, text in readings.items():
        for said in re.findall(r"same\s+(?:pt|patient)\b\W*as\b([^)\n]*)", text, re.I):
            for other in re.findall(r"(?:MCU|CHN)CXR_[0-9]+", said.upper()):
                earlier, later = sorted((first(id[:-2]), first(other)))
                if earlier != later:
                    links[later] = earlier
    return {patient: first(patient) for patient in links}


def patient_of(id: str, patients: dict[str, str]) -> str:
    """Return the patient of an image: the one in `patients_of`, else the id without its label."""
    return patients.get(id[:-2], id[:-2])


def decode_text(data: bytes) -> str:
    """Return the text of a reading: UTF-8 or UTF-16, each with or without mark, else Latin-1, which reads any byte."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:2]:
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _is_at(id: str, site: str | None) -> bool:
    return site is None or SITE_OF_PREFIX[id[:6]] == site


class Reader(ExitStack):
    """Reads `SetFile`s, each zip opened once; one per generator, since an open zip must not cross a fork."""

    def __init__(self) -> None:
        """Start with nothing open."""
        super().__init__()
        self.archives: dict[str, zipfile.ZipFile] = {}
        self.odd_masks: dict[str, str] = {}  # of masks, by id
        self.lock = threading.Lock()

    def __call__(self, file: SetFile) -> bytes:
        """Return the bytes of a file.

        Raises:
            ValueError: it is not a regular file or too large, or the zip's member is as `read_member` says.
        """
        limit = {"reading": MAX_READING, "table": MAX_TABLE}.get(file.role, MAX_BYTES)
        if not file.member:
            return read_file(file.path, limit)
        with self.lock:
            if file.path not in self.archives:
                self.archives[file.path] = self.enter_context(_open_zip(file.path))
        return read_member(self.archives[file.path], file.member, file.name, limit)

    def checked(self, file: SetFile, copies: Iterable[SetFile]) -> bytes:
        """Return the bytes of a file of which each of its `copies` holds the same bytes, pixels or words.

        Raises:
            ValueError: as for a call, or one of them holds something else, so that a mask could be another image's.
        """
        data = self(file)
        for copy in copies:
            # a zip's own checksum saves the reading, and tells two members of one name apart
            is_same = (copy.size, copy.stamp) == (len(data), zlib.crc32(data)) if copy.member else copy == file
            if is_same or copy.role != file.role:
                continue
            if copy.name == file.name or ((theirs := self(copy)) != data and _differ((copy, theirs), (file, data))):
                raise ValueError(f"{copy.name} and {file.name} are copies of {file.id} that differ: keep one")
        return data


class TooManyPixelsError(ValueError):
    """An image holds more than `MAX_PIXELS`, and is not decoded."""


def reason(error: BaseException) -> str:
    """Return the message of an error, without the address in memory that PIL puts into its own."""
    return re.sub(r" <_io\.[^>]*>", "", str(error)) or type(error).__name__


_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def check_image(data: bytes, name: str) -> tuple[int, int]:
    """Return (width, height), upright, of an image file whose header and checksums are sound.

    A PNG's pixels are not unpacked, which takes ten times as long, unless it may be turned. Its checksums show any cut
    or change. Other formats have no checksums, so they are unpacked.

    Raises:
        ValueError: it is not an image, or is cut off or damaged.
        TooManyPixelsError: it holds more than `MAX_PIXELS`.
    """
    with open_image_file(io.BytesIO(data), name) as image:
        try:
            if image.format == "PNG":
                if data.rfind(_PNG_END) < 0:
                    raise ValueError("its last bytes are missing")
                if not any(map(data.__contains__, _TURNED)):
                    image.verify()
                    return image.size
            return as_shown(image).size
        except Exception as error:  # PIL raises whatever its many decoders raise
            raise ValueError(f"{name} cannot be decoded as an image ({reason(error)}): get a sound copy") from error


def open_image_file(file: BinaryIO, name: str) -> Image.Image:
    """Return the image of an open file, called `name` in errors, of `FORMATS`; its pixels are not decoded yet.

    Raises:
        ValueError: it is not an image of these, or holds several pictures.
        TooManyPixelsError: it holds more than `MAX_PIXELS`.
    """
    try:
        image = Image.open(file, formats=FORMATS)
        is_several = image.format not in CAMERA_FORMATS and getattr(image, "is_animated", False)
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"{name} has more than {MAX_PIXELS} pixels: scale it down") from error
    except Exception as error:  # as above
        ways = "pass a sound PNG, JPEG, TIFF or DICOM file"
        raise ValueError(f"{name} cannot be decoded as an image ({reason(error)}): {ways}") from error
    if is_several:
        raise ValueError(f"{name} is a {image.format} of several pictures: save the one to be read on its own")
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise TooManyPixelsError(f"{name} has {size} pixels, more than {MAX_PIXELS}: scale it down")
    return image


def as_shown(image: Image.Image) -> Image.Image:
    """Return an opened image file decoded, upright by its EXIF in any format, as `datasets` does, and black as 0."""
    image = _unpacked_png(image) or image
    image.load()
    with suppress(Exception):  # unreadable EXIF turns nothing
        ImageOps.exif_transpose(image, in_place=True)
    return black_as_zero(image)


# Bits, colour type, and no interlacing, of a PNG: how `_pixels_of` decodes it
_FAST_PNG = {b"\x08\0\0\0\0": "L", b"\x10\0\0\0\0": "I;16", b"\x08\2\0\0\0": "RGB", b"\x08\3\0\0\0": "P"}


def _unpacked_png(image: Image.Image) -> Image.Image | None:
    """Return an opened PNG decoded by kornia-rs and isal, which take less than half of Pillow's time.

    None is what remains Pillow's: other formats and kinds of PNG, where these libraries are not installed, and what
    they find damaged, as its verdict counts.
    """
    file = getattr(image, "fp", None)
    if image.format != "PNG" or file is None or "transparency" in image.info:
        return None
    before, _ = file.tell(), file.seek(0)
    data = file.read()
    file.seek(before)
    kind = _FAST_PNG.get(data[24:29])
    try:
        pixels = None if kind is None else _pixels_of(data, kind, image.height, image.width)
    except Exception:  # of any kind, by the library
        return None
    if pixels is None:
        return None
    found = Image.fromarray(pixels)
    if kind == "P" and image.palette is not None:
        found.putpalette(image.palette)
    found.info, found.format = image.info, image.format
    return found


def _pixels_of(data: bytes, kind: str, height: int, width: int) -> np.ndarray | None:
    """Return (H, W) or (H, W, 3) of a PNG, indices where it has a palette; None without the library for it."""
    chunks = _pixel_chunks(data)
    if chunks is None:
        return None
    if kind == "P" and (isal := _library("isal.isal_zlib")):  # while it works, other threads do, too
        rows = np.frombuffer(isal.decompressobj().decompress(b"".join(chunks), height * (width + 1) + 1), np.uint8)
        rows = rows.reshape(height, width + 1)
        if not rows[:, 0].any():  # no filter, as of most palettes
            return rows[:, 1:]
    if (kornia := _library("kornia_rs")) is None:
        return None
    if kind == "I;16":
        return kornia.io.decode_image_png_u16(data, (height, width), "mono")[..., 0]
    pixels: np.ndarray = kornia.image.Image.decode(data, "RGB" if kind == "RGB" else "L").data
    return pixels if kind == "RGB" else pixels[..., 0]


def _pixel_chunks(data: bytes) -> list[memoryview] | None:
    """Return the compressed pixels of a PNG; None where other things stand behind them, or it is damaged."""
    at, chunks = 8, []
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            chunks.append(memoryview(data)[at + 8 : at + 8 + size])
        elif chunks:
            return chunks if name == b"IEND" else None
        at += size + 12
    return None


@lru_cache
def _library(name: str) -> Any:
    """Return a module that is optional, or None; by name, as of `dicom_png`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def black_as_zero(image: Image.Image) -> Image.Image:
    """Return an image decoded; a deep TIFF in which 0 is white, which Pillow leaves as stored, is inverted.

    Its white is the largest value of the fewest of 8, 10, 12, 14 or 16 bits that hold its values; of deeper or
    negative ones the sum of the least and the largest.
    """
    image.load()
    is_inverse = getattr(image, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    if not is_inverse or image.mode[0] not in "IF":
        return image
    values = np.asarray(image).astype(np.float32 if image.mode == "F" else np.int64)
    low, high = values.min(), values.max()
    tops = (2**bits - 1 for bits in (8, 10, 12, 14, 16) if image.mode != "F" and low >= 0 and high < 2**bits)
    if top := next(tops, 0):
        return Image.fromarray((top - values).astype(np.uint16))
    return Image.fromarray((low + high - values).astype(np.float32))


def binarize(mask: Image.Image) -> np.ndarray:
    """Return (H, W) bool of any mask image: all but the background, the darkest value or the colour of the border.

    True above 127 of 255, or above half of another maximum, as masks that were saved again have soft edges. Where a
    label is darker than that (1 and 2, 100 and 200), true from half of it on. Alpha that varies is the mask.
    """
    values = mask_values(mask)
    top = int(values.max(initial=0))
    is_dark = np.count_nonzero(values - np.uint8(1) < 127) >= _LABEL_AREA * values.size  # else no label can be
    background, *lungs = (is_dark and mask_labels(values)) or [0]
    if lungs and lungs[0] <= 127:
        return values > (background + lungs[0]) / 2
    return values > (0.5 if top <= 3 else 127 if top > 127 else top / 2)


_SAME_GRAY = 8  # gray levels by which the channels of a gray image may differ that was saved as a JPEG of three
_LABEL_AREA = 0.005  # of the image: a lung takes 0.018 or more, a gray value of soft edges 0.00045 at most


def mask_values(mask: Image.Image) -> np.ndarray:
    """Return (H, W) uint8 of a mask image: gray, alpha that varies, or how far a colour is from the border's.

    Values above 255, and fractions, are scaled to a maximum of 255.
    """
    if mask.mode[0] in "IF":
        values = np.asarray(mask)
        top = values.max(initial=0)
        if top > 255 or (values != np.rint(values)).any():
            values = values * (255 / top)
        return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    if "A" in mask.getbands() or "transparency" in mask.info:
        mask = mask.convert("RGBA")
        alpha = np.asarray(mask.getchannel("A"))
        if np.ptp(alpha) > _SAME_GRAY:
            return alpha
    if mask.mode in ("1", "L"):
        return np.asarray(mask if mask.mode == "L" else mask.convert("L"))
    mask = mask.convert("RGB")
    colours = np.asarray(mask)  # (H, W, 3)
    if np.ptp(colours, axis=2).max() <= _SAME_GRAY:
        return np.asarray(mask.convert("L"))
    border = np.concatenate([colours[0], colours[-1], colours[:, 0], colours[:, -1]])
    known, counts = np.unique(border, axis=0, return_counts=True)
    return np.abs(colours.astype(np.int16) - known[counts.argmax()]).max(axis=2).astype(np.uint8)


def mask_labels(values: np.ndarray) -> list[int]:
    """Return the values of (H, W) uint8 that fill an area, in order: background, then lungs; empty for none.

    Soft edges are lines, also of masks that were scaled up: a value that fills an area holds a square of some size.
    """
    counts = np.array(Image.fromarray(values).histogram())
    wide = [int(value) for value in np.flatnonzero(counts >= max(1, _LABEL_AREA * values.size))]
    if not any(0 < value <= 127 for value in wide):
        return wide
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    is_exact = np.count_nonzero(counts) <= 6 and not counts[254]  # JPEG of the best quality leaves 0, 1, 254 and 255
    labels: list[int] = []  # which together fill most of a mask, but little of an X-ray in its place
    for value in wide:
        # what JPEG leaves beside an edge is near to the value there; what takes the border is a frame
        is_apart = is_exact or not labels or value - labels[-1] >= max(1, wide[-1] // 16)
        is_frame = bool(labels) and 2 * np.count_nonzero(border == value) > border.size
        if is_apart and not is_frame and _holds_square(values == value, max(2, min(values.shape) // 25)):
            labels.append(value)
    return labels if counts[labels].sum() > 0.75 * values.size else []


def _holds_square(pixels: np.ndarray, side: int) -> bool:
    """Return whether (H, W) bool holds a square of true pixels."""
    for _ in range(2):
        span = 1
        while span < side:  # each row comes to hold what it and the span - 1 rows below it have in common
            step = min(span, side - span)
            pixels, span = pixels[:-step] & pixels[step:], span + step
        pixels = pixels.T
    return bool(pixels.any())


def doubt_of(lungs: np.ndarray) -> str:
    """Return why an (H, W) bool mask can hardly be of lungs, "" for one that can.

    The lungs of 449 real masks take 0.099 to 0.433 of the image, and 0.031 of its border at most.
    """
    if not (area := np.count_nonzero(lungs) / max(1, lungs.size)):
        return "holds no lung"
    border = np.concatenate([lungs[0], lungs[-1], lungs[:, 0], lungs[:, -1]]).mean()
    if border > 0.5:
        return f"looks inverted: it covers {area:.0%} of the image, and its border"
    return f"covers {area:.0%} of the image" if area > 0.6 else ""


def mask_png(files: Iterable[tuple[str, bytes]], size: tuple[int, int]) -> bytes:
    """Return PNG bytes (mode L, 0 and 255) of `union_of` mask files; raises as it does."""
    return _gray_png(union_of(files, size) * np.uint8(255))


def union_of(files: Iterable[tuple[str, bytes]], size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) bool, the union of mask files (name, bytes) at the image's (width, height).

    Raises:
        ValueError: a file cannot be decoded, or is not as large as the image.
    """
    union = np.zeros(size[::-1], bool)
    for name, data in files:
        if (mask_size := check_image(data, name)) != size:
            shapes = f"{mask_size[0]}x{mask_size[1]} pixels, its image {size[0]}x{size[1]}"
            raise ValueError(f"{name} is a mask of {shapes}: make them one size (nearest neighbour for the mask)")
        try:
            with open_image_file(io.BytesIO(data), name) as mask:
                union |= binarize(as_shown(mask))
        except Exception as error:  # as above
            raise ValueError(f"{name} cannot be decoded as a mask ({reason(error)}): get a sound copy") from error
    return union


def _differ(*files: tuple[SetFile, bytes]) -> bool:
    """Return whether two copies differ in pixels, in lungs, or in the words of a reading."""
    one, other = (_content(*file) for file in files)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return differ(one, other, is_soft=len({file.rank for file, _ in files}) > 1)
    return one != other


def differ(one: np.ndarray, other: np.ndarray, is_soft: bool) -> bool:
    """Return whether two arrays differ; with `is_soft` in more than one pixel of a hundred, as JPEG does at edges."""
    return one.shape != other.shape or bool(np.mean(one != other) > (0.01 if is_soft else 0))


def _content(file: SetFile, data: bytes) -> np.ndarray | list[str]:
    """Return what makes two copies of a file the same: pixels, the lungs of a mask, the words of a reading."""
    if file.role == "reading":
        return decode_text(data).split()
    png = dicom_png(data, file.name) if file.rank == DICOM_RANK else data
    with open_image_file(io.BytesIO(png), file.name) as opened:
        image = as_shown(opened)
        if file.role != "image":
            return binarize(image)
        return np.asarray(image if image.mode[0] in "IF" else image.convert("RGB"))


def _gray_png(pixels: np.ndarray) -> bytes:
    """Return the PNG of (H, W) uint8 or uint16; a third of the time of PIL, which tries five filters on every row."""
    rows = np.pad(pixels.astype(f">u{pixels.itemsize}").view(np.uint8), ((0, 0), (1, 0)))  # each behind its filter, 0
    pack = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return png_of(pixels.shape, 8 * pixels.itemsize, pack.compress(rows.data) + pack.flush())


def png_of(shape: tuple[int, ...], bits: int, packed: bytes) -> bytes:
    """Return the gray PNG of (H, W) pixels of some bits from its compressed rows."""
    header = struct.pack(">IIBBBBB", shape[1], shape[0], bits, 0, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + packed, b"IEND")
    sealed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(sealed)


def dicom_png(data: bytes, name: str) -> bytes:
    """Return PNG bytes (16-bit gray: the stored values, MONOCHROME1 inverted in the stored bits) of a DICOM X-ray.

    Raises:
        ImportError: pydicom is missing.
        ValueError: it is not a DICOM file with one gray frame of at most 16 bits.
        TooManyPixelsError: it holds more than `MAX_PIXELS`.
    """
    try:  # by name: datasets 3 would demand an `import` in a script as a requirement of all users
        pydicom = importlib.import_module("pydicom")
    except ImportError as error:
        raise ImportError(f"{name} is DICOM, which needs pydicom: pip install pydicom") from error
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # its warnings would quote the header
    what, way_out = "its header", "get a sound copy"
    try:
        header = read_dicom_file(DicomFile(data), stop_before_pixels=True)
        bits, rows, columns = (int(header[keyword].value) for keyword in ("BitsStored", "Rows", "Columns"))
        if not header.get("PhotometricInterpretation"):
            what, way_out = "whether 0 is black or white is not said", "set its Photometric Interpretation"
            raise ValueError
        is_gray = header.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2") and header.SamplesPerPixel == 1
        if not is_gray or int(header.get("NumberOfFrames") or 1) != 1 or not 0 < bits <= 16:
            what = "not one gray frame of at most 16 bits"
            raise ValueError
        what = "its pixels"
        if is_small := rows * columns <= MAX_PIXELS:
            pixels = decode_dicom(read_dicom_file(DicomFile(data, longest_pixels(header))))
    except Exception as error:  # of any kind: pydicom has many parsers, and their messages may quote the header
        what += f": {error}" if isinstance(error, (ChildProcessError, TimeoutError)) else ""
        raise ValueError(f"{name} cannot be read as a gray DICOM X-ray ({what}): {way_out}") from None
    if not is_small:
        raise TooManyPixelsError(f"{name} has more than {MAX_PIXELS} pixels ({columns}x{rows}): scale it down")
    if header.PixelRepresentation:  # signed: shift up to start at 0
        pixels = pixels.astype(np.int32) + 2 ** (bits - 1)
    if header.PhotometricInterpretation == "MONOCHROME1":  # 0 is white
        pixels = 2**bits - 1 - pixels.astype(np.int32)
    return _gray_png(pixels.astype(np.uint16))


def _tiff(data: bytes, name: str) -> bytes:
    """Return the bytes of a TIFF; of one of 16 bits in which 0 is white, which PIL reads as stored, those of a PNG."""
    with open_image_file(io.BytesIO(data), name) as image:
        shown = black_as_zero(image)
        if shown is image or shown.mode == "F":
            return data
        return _gray_png(np.asarray(shown).astype(np.uint16))


class DicomFile(io.BufferedReader):
    """A DICOM file, or its bytes, of which no more can be read than an X-ray has, whatever lengths it claims."""

    name = "a DICOM file"  # for pydicom; bytes have none

    def __init__(self, source: bytes | str | Path, longest: int = HEADER_BYTES) -> None:
        """Open `source`; `longest` is the number of bytes that can be read at a time."""
        super().__init__(io.BytesIO(source) if isinstance(source, bytes) else io.FileIO(str(source)))
        self.longest, self.left = longest, longest + 2**25

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes.

        Raises:
            ValueError: the header is too long, or has too many elements.
        """
        size = -1 if size is None else size
        self.left -= max(size, 256)  # an element takes more memory than bytes of the file
        if not 0 <= size <= self.longest or self.left < 0:
            raise ValueError("a DICOM file claims more bytes than an X-ray has")
        return super().read(size)

    def inflated(self) -> bytes:
        """Return the deflated rest of the file, unpacked to no more than an X-ray and its header have."""
        unpacked, inflate = bytearray(), zlib.decompressobj(-zlib.MAX_WBITS).decompress
        while (left := self.longest + HEADER_BYTES - len(unpacked)) and (packed := super().read(2**20)):
            unpacked += inflate(packed, left)
        return bytes(unpacked)


def is_bare_dicom(head: bytes) -> bool:
    """Return whether a file's first bytes, 132 or more, are those of DICOM elements without preamble and `DICM`.

    The first is of group 2 (meta header) or 8; it is short, and the next one is of the same group or of one behind it.
    """
    for order, group in (("<", b"\x02\0"), ("<", b"\x08\0"), (">", b"\0\x08")):
        if head[:2] == group and head[4:6].isalpha():  # with a value representation
            is_long = head[4:6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
            length = struct.unpack_from(f"{order}{'I' if is_long else 'H'}", head.ljust(12), 8 if is_long else 6)[0]
            start = length + (12 if is_long else 8)
        elif head[:2] == group and order == "<":
            start = struct.unpack_from("<I", head.ljust(8), 4)[0] + 8
        else:
            continue
        if start + 4 > len(head):
            return False
        first, second = (struct.unpack_from(f"{order}HH", head, at) for at in (0, start))
        return first < second and (second[0] == first[0] or 8 <= second[0] <= 0x10)
    return False


def read_dicom_file(file: "DicomFile", **options: Any) -> Any:
    """Return the header of a DICOM file as pydicom's `dcmread`; without meta header or its transfer syntax, too.

    What the file does not say is found by its first element: implicit or explicit, little or big endian. No more of a
    deflated file is unpacked than the file may be read.

    Raises:
        Exception: of any kind, where the file is not DICOM, or is cut off.
    """
    pydicom = importlib.import_module("pydicom")
    is_bare = is_bare_dicom(file.peek(HEAD_BYTES)[:HEAD_BYTES])
    pydicom.filereader.read_preamble(file, force=is_bare)
    meta = pydicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, size: tag.group != 2)
    if is_deflated := meta.get("TransferSyntaxUID") == pydicom.uid.DeflatedExplicitVRLittleEndian:
        file = DicomFile(file.inflated(), file.longest)
    if not file.peek(1):
        raise ValueError("cut off in the meta header")
    file.seek(0)
    header = pydicom.dcmread(file, force=is_bare or is_deflated, **options)
    if is_deflated:
        header.file_meta = pydicom.dataset.FileMetaDataset(meta)
    if is_deflated or not header.file_meta.get("TransferSyntaxUID"):
        is_implicit, is_little = header.original_encoding
        explicit = "ExplicitVRLittleEndian" if is_little else "ExplicitVRBigEndian"
        syntax = getattr(pydicom.uid, "ImplicitVRLittleEndian" if is_implicit else explicit)
        header.file_meta.TransferSyntaxUID = syntax
    return header


def longest_pixels(header: Any) -> int:
    """Return the most bytes that the pixels of a DICOM file can take, by its header: compression may add some."""
    samples = int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel") or 1)
    return HEADER_BYTES + 2 * samples * int(header.BitsAllocated) // 8


def decode_dicom(header: Any) -> np.ndarray:
    """Return the one frame of a DICOM file as pydicom does: (H, W) integers, or (H, W, 3) red, green, blue.

    A compressed one is decoded in another process: damage of a single bit can end it, and nothing catches that.

    Raises:
        ChildProcessError: the decoder's process ended.
        TimeoutError: it took too long.
        Exception: of any other kind, where the frame is damaged, or no plug-in of pydicom decodes it.
    """
    pixels, uid = importlib.import_module("pydicom.pixels"), importlib.import_module("pydicom.uid")
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        decoded: np.ndarray = pixels.pixel_array(header, index=0)
        return decoded
    size, data = (header.Rows, header.Columns), header.PixelData
    if syntax != uid.RLELossless:  # decoders allocate what the frame asks for; RLE says nothing
        get_frame = importlib.import_module("pydicom.encaps").get_frame
        if _claimed_sizes(get_frame(data, 0, number_of_frames=1)) != {size}:
            raise ValueError("the compressed frame is of another size than its header says")
    options = importlib.import_module("pydicom.pixels.utils").as_pixel_options(header, number_of_frames=1)
    options.pop("extended_offsets", None)
    seconds = DECODING_SECONDS + 2e-6 * math.prod(size)
    depth = 1 if header.SamplesPerPixel == 1 else header.SamplesPerPixel
    kind = f"<{'i' if header.PixelRepresentation else 'u'}{header.BitsAllocated // 8}"
    decoded = np.empty(size if depth == 1 else (*size, depth), kind)
    options |= {"syntax": syntax, "length": len(data), "size": decoded.nbytes, "seconds": seconds}
    if not _DECODERS.decode(json.dumps(options).encode() + b"\n" + data, decoded, seconds):
        raise ValueError("no plug-in decodes the frame")
    return decoded


# Markers of a JPEG or JPEG-LS frame's header, behind which its precision, height and width stand.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def _claimed_sizes(frame: bytes) -> set[tuple[int, int]]:
    """Return the (height, width) that a frame of JPEG, JPEG-LS or JPEG 2000 claims; several where it is ambiguous.

    Source: ISO/IEC 10918-1 B.2.2 (frame header), 14495-1 C.2.2 (the same in JPEG-LS), 15444-1 A.5.1 (SIZ).
    """
    if frame[:2] != b"\xff\xd8":
        found = (struct.unpack(">4I", match[1]) for match in re.finditer(rb"\xff\x4f\xff\x51....(.{16})", frame, re.S))
        return {(bottom - top, right - left) for right, bottom, left, top in found}
    at = 2
    while frame[at] == 0xFF:
        if frame[at + 1] in _FRAME_MARKERS:
            return {struct.unpack(">HH", frame[at + 5 : at + 9])}
        at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return set()


def _decode_frames() -> None:
    """Decode DICOM frames from stdin to stdout until stdin closes: the whole program of a decoder's process.

    A request is a line of JSON and the frame; the answer is a byte, 1 and the pixels or 0 for a frame that none of the
    plug-ins decodes. They are tried in the order of how seldom damaged frames end them.
    """
    import faulthandler
    import importlib
    import json
    import os
    import signal
    import sys

    answers, requests = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # what libraries print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: meant for the process that asks
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # would hold the X-ray
        most, allowed = 2**32, resource.getrlimit(resource.RLIMIT_AS)[1]  # the largest X-rays take a quarter of it
        resource.setrlimit(resource.RLIMIT_AS, (most if allowed < 0 else min(most, allowed), allowed))
    except (ImportError, ValueError, OSError):  # Windows has none, macOS not this one
        pass
    get_decoder = importlib.import_module("pydicom.pixels").get_decoder
    order = "pillow pylibjpeg pyjpegls pydicom gdcm"
    while line := requests.readline():
        options = json.loads(line)
        frame = requests.read(options.pop("length"))
        # ends this process even where it hangs, and the one that asks is gone
        faulthandler.dump_traceback_later(options.pop("seconds"), exit=True)
        syntax, size, pixels = options.pop("syntax"), options.pop("size"), b""
        tries = [(syntax, name) for name in sorted(get_decoder(syntax).available_plugins, key=order.find)]
        if syntax == "1.2.840.10008.1.2.4.51":  # pydicom calls GDCM for its 12 bits by the name of another JPEG only
            tries.append(("1.2.840.10008.1.2.4.57", "gdcm"))
        for uid, name in tries:
            try:
                pixels = get_decoder(uid).as_array(frame, index=0, decoding_plugin=name, **options)[0].tobytes()
                break
            except Exception:  # of any kind; the next may do better
                continue
        faulthandler.cancel_dump_traceback_later()
        answers.write(b"\1" + pixels if len(pixels) == size else b"\0")
        answers.flush()


class _Decoders:
    """Processes that decode DICOM frames for any number of threads, at most one a core at a time.

    They end when their stdin closes, so also when the process that asks is killed.
    """

    def __init__(self) -> None:
        """Start none yet."""
        self.all: set[subprocess.Popen[bytes]] = set()
        self.forget()

    def forget(self) -> None:
        """Leave the processes to the parent, in a fork of it."""
        for process in self.all:
            _close(process)
        self.all, self.turns = set(), threading.BoundedSemaphore(os.cpu_count() or 1)
        self.idle: deque[subprocess.Popen[bytes]] = deque()

    def decode(self, request: bytes, pixels: np.ndarray, seconds: float) -> bool:
        """Fill `pixels` with the answer to a request; return whether there was one.

        Raises:
            ChildProcessError: the process ended, and so did a new one: the first may have been harmed, or killed.
            TimeoutError: it took longer than `seconds`.
        """
        with self.turns:
            for is_last in (False, True):
                process, end = self._start() if is_last else self._idle(), time.monotonic() + seconds
                timer = threading.Timer(seconds, process.kill)
                timer.daemon = True
                timer.start()
                try:
                    return _exchange(process, request, pixels)
                except BaseException as error:  # an interrupt, too: the answer is still to come
                    process.kill()
                    code = process.wait()
                    if not isinstance(error, OSError):
                        raise
                finally:
                    timer.cancel()
                    self._put(process)
                if time.monotonic() >= end:
                    raise TimeoutError(f"its decoder took more than {seconds:.0f} s")
            raise ChildProcessError(f"its decoder ended with code {code}")

    def _idle(self) -> "subprocess.Popen[bytes]":
        try:
            return self.idle.pop()
        except IndexError:
            return self._start()

    def _put(self, process: "subprocess.Popen[bytes]") -> None:
        if process.returncode is None:
            self.idle.append(process)
        else:
            self.all.discard(process)
            _close(process)

    def _start(self) -> "subprocess.Popen[bytes]":
        code = f"import sys; sys.path[:] = {list(map(str, sys.path))}\n{inspect.getsource(_decode_frames)}"
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", f"{code}\n_decode_frames()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # numpy's own threads take time and memory to start
            )
        except OSError as error:
            raise ChildProcessError(f"its decoder could not be started, {error}") from error
        self.all.add(process)
        return process


def _close(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def _exchange(process: "subprocess.Popen[bytes]", request: bytes, pixels: np.ndarray) -> bool:
    """Send a request, and fill `pixels` with the answer; return whether there was one.

    Raises:
        OSError: the process ended.
    """
    if not process.stdin or not process.stdout:
        raise BrokenPipeError
    _move(memoryview(request), process.stdin.write)
    found = bytearray(1)
    _move(memoryview(found), process.stdout.readinto)  # type: ignore[attr-defined]
    if found[0]:
        _move(pixels.data.cast("B"), process.stdout.readinto)  # type: ignore[attr-defined]
    return bool(found[0])


def _move(view: memoryview, move: Callable[[memoryview], int | None]) -> None:
    """Write or fill a buffer, which may take several calls."""
    while view:
        done = move(view)
        if not done:
            raise BrokenPipeError
        view = view[done:]


_DECODERS = _Decoders()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_DECODERS.forget)


# Source: doi 10.3390/data7070095 (Yang et al. 2022), for the 336 Shenzhen X-rays with tuberculosis.
LESIONS = re.findall(
    r"\S+",
    "Pleural_Effusion Apical_Thickening Pleural_Thickening_(non-apical) Thickening_of_interlobar_fissure Cavity "
    "Single_Nodule_(non-calcified) Clustered_Nodule_(2mm-5mm_apart) Calcified_Nodule Small_Infiltrate_(non-linear) "
    "Moderate_Infiltrate_(non-linear) Severe_Infiltrate_(Consolidation) Linear_Density Miliary Retraction Adenopathy "
    "Calcified_lymph_node Calcification_(other_than_nodule&lymphnod) Other Unknown",
)
LESIONS_FEATURE = [
    {
        "annotation": datasets.Value("string"),
        "finding": datasets.Value("string"),
        "x": [datasets.Value("float32")],
        "y": [datasets.Value("float32")],
        "mask": datasets.Image(),
    }
]
_LESION_MASK = re.compile(r"(?P<id>CHNCXR_[0-9]+_[01])_(?P<finding>.+?)(?:_[0-9]+)?\.png", re.I | re.A)


class Lesion(NamedTuple):
    """One lesion of an X-ray: a polygon (x and y in pixels) or a mask."""

    annotation: str  # the folder that it stands in: Annotations or Annotations-2
    finding: str  # of `LESIONS`
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    mask: SetFile | None = None


def _annotation_of(folders: Iterable[str]) -> str | None:
    """Return the innermost folder of lesions; None without one."""
    named = [folder for folder in folders if re.fullmatch(r"annotations(?:-[0-9]+)?", folder, re.I)]
    return named[-1] if named else None


def _is_of_lesions(folders: tuple[str, ...], name: str) -> bool:
    is_named = name.lower().endswith(".json") or _LESION_MASK.fullmatch(name) is not None
    return is_named and not name.startswith("._") and _annotation_of(folders) is not None


def lesions_of(tree: Tree) -> dict[str, list[Lesion]]:
    """Return the lesions of each annotated X-ray, by its id: polygons of VGG's Image Annotator, and masks.

    One that stands in several files is returned once. Its polygon and its mask are apart: no number joins them.

    Raises:
        FileNotFoundError: the tree has none.
        ValueError: a file is damaged, or a lesion has a name or a shape that is not known.
    """
    found: dict[str, dict[Lesion, None]] = {}
    with Reader() as reader:
        for file in tree.lesions:
            annotation = _annotation_of(re.split(r"[\\/]", file.name)) or ""
            if match := _LESION_MASK.fullmatch(file.id):
                lesion = Lesion(annotation, _lesion_name([match["finding"]], file.name), mask=file)
                found.setdefault(match["id"].upper(), {})[lesion] = None
                continue
            try:
                for entry in json.loads(decode_text(reader(file))).values():
                    polygons = found.setdefault(entry["filename"].rpartition(".")[0].upper(), {})
                    polygons |= dict.fromkeys(_polygon(region, annotation, file.name) for region in entry["regions"])
            except (AttributeError, TypeError, KeyError, json.JSONDecodeError) as error:
                raise ValueError(f"{file.name} is not a file of lesions ({error!r}): get a sound copy") from error
    if not found:
        raise FileNotFoundError(
            f"no lesions in {tree.root}: looked for the NLM's folder Annotations (.json files, masks of lesions); put "
            "it beside CXR_png, or leave with_lesions out"
        )
    return {id: list(lesions) for id, lesions in found.items()}


def _lesion_name(said: list[str], name: str) -> str:
    """Return the lesion that one of some words says, in the spelling of `LESIONS`; raise ValueError for none."""

    def letters(word: str) -> str:
        return re.sub(r"[\W_]", "", word).lower()

    known = {letters(one): one for one in LESIONS}
    names = [known[letters(word)] for word in said if letters(word) in known]
    if not names:
        raise ValueError(f"{name} has a lesion called {', '.join(said) or 'nothing'}: known are {', '.join(LESIONS)}")
    return names[0]


def _polygon(region: dict[str, Any], annotation: str, name: str) -> Lesion:
    """Return a region of the annotator: the corners of a polygon, a line or a rectangle, or one point."""
    shape, said = region["shape_attributes"], region["region_attributes"]
    kind, x, y = shape["name"], shape.get("all_points_x"), shape.get("all_points_y")
    if kind == "point":
        x, y = [shape["cx"]], [shape["cy"]]
    elif kind == "rect":
        left, top, right, bottom = shape["x"], shape["y"], shape["x"] + shape["width"], shape["y"] + shape["height"]
        x, y = [left, right, right, left], [top, top, bottom, bottom]
    if not x or not y or len(x) != len(y):
        raise ValueError(f"{name} has a lesion of shape {kind}: known are polygon, polyline, rect and point")
    finding = _lesion_name([*said, *map(str, said.values())], name)
    return Lesion(annotation, finding, tuple(map(float, x)), tuple(map(float, y)))


def lesion_rows(id: str, lesions: list[Lesion], size: tuple[int, int], read: Reader) -> list[dict[str, Any]]:
    """Return the column `lesions` of an X-ray of `size` (width, height).

    Raises:
        ValueError: a polygon or a mask is of another size, as in a scaled copy of the X-rays, or cannot be read.
    """
    rows = []
    for lesion in lesions:
        reach = max(lesion.x, default=0), max(lesion.y, default=0)
        if reach[0] > size[0] or reach[1] > size[1]:
            there = f"{lesion.finding} of {id} in {lesion.annotation} reaches ({reach[0]:g}, {reach[1]:g})"
            raise ValueError(
                f"{there}, outside its image of {size[0]}x{size[1]} pixels: use images of the original size"
            )
        png = mask_png([(lesion.mask.name, read(lesion.mask))], size) if lesion.mask else None
        rows.append(lesion._asdict() | {"mask": {"path": None, "bytes": png} if png else None})
    return rows


def read_row(row: Row, read: Reader) -> dict[str, Any]:
    """Return the example of a row (see `FEATURES`), its files read and checked; raises as the functions it calls.

    A mask that can hardly be of lungs is noted in `read.odd_masks`.
    """
    image = read.checked(row.image, row.copies)
    if row.image.rank == DICOM_RANK:
        image = dicom_png(image, row.image.name)
    size = check_image(image, row.image.name)
    if row.image.kind in ("tif", "tiff"):
        image = _tiff(image, row.image.name)
    mask = None
    if row.masks:
        lungs = union_of(((file.name, read.checked(file, row.copies)) for file in row.masks), size)
        mask = _gray_png(lungs * np.uint8(255))
        if doubt := doubt_of(lungs):
            read.odd_masks[row.id] = doubt
    said = parse_reading(row.reading)
    sex, age_years, findings = (own if own is not None else other for own, other in zip(said, row.tabled, strict=True))
    return {
        "id": row.id,
        "patient_id": row.patient_id,
        "site": SITE_OF_PREFIX[row.id[:6]],
        # no path: where the current folder holds a file of that name, datasets would take it for the image
        "image": {"path": None, "bytes": image},
        "mask": {"path": None, "bytes": mask} if mask else None,
        "label": int(row.id[-1]),
        "sex": sex,
        "age_years": age_years,
        "findings": findings,
        "reading": row.reading,
    }


@dataclass
class ChestXrayMasksConfig(datasets.BuilderConfig):
    """Where the set is: `data_dir`, a folder or a zip; without it, the zip at `url` is downloaded.

    `with_findings` adds the columns of `FINDINGS_FEATURES`, `with_lesions` the column `lesions`.
    """

    version: datasets.Version = datasets.Version("1.0.0")
    url: str = DOWNLOAD_URL
    with_findings: bool = False
    with_lesions: bool = False

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Return the cache's key: config, and the files used or the URL; not `data_files`, which datasets guesses."""
        kept = {key: value for key, value in config_kwargs.items() if key not in ("data_dir", "data_files")}
        kept = {key: value for key, value in kept.items() if value or not key.startswith("with_")}
        found: dict[str, Any] = {"url": self.url}
        if self.data_dir is not None:
            tree, site = scan(self.data_dir), SITES.get(self.name)
            found = {"tree": tree.fingerprint(site)}
            if self.with_lesions:
                found["lesions"] = [(file.name, *file[4:]) for file in tree.lesions]
            if any(file.role == "image" and _is_at(file.id, site) for file in tree.files):  # else an error says it
                _say(_unused_said(tree, site))
        if self.with_findings or self.with_lesions:
            found["findings"] = FINDINGS_VERSION
        return super().create_config_id(kept | found, custom_features)


class ChestXrayMasks(datasets.GeneratorBasedBuilder):
    """Builder of the configs MC, Shenzhen and all, each with the splits train, validation and test by patient."""

    BUILDER_CONFIG_CLASS = ChestXrayMasksConfig
    BUILDER_CONFIGS = [ChestXrayMasksConfig(name=name) for name in (*SITES, "all")]
    DEFAULT_CONFIG_NAME = "all"
    DEFAULT_WRITER_BATCH_SIZE = 16  # originals take up to 10 MB each: keeps memory flat

    def __init__(self, *args: Any, hash: str | None = None, **kwargs: Any) -> None:
        """Start as any builder; made by hand it shares the cache of `load_dataset`, which passes the same hash."""
        _refuse_files(kwargs.get("data_files"))
        super().__init__(*args, hash=hash or _HASH, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        features = FEATURES | (FINDINGS_FEATURES if self.config.with_findings else {})
        features |= {"lesions": LESIONS_FEATURE} if self.config.with_lesions else {}
        return datasets.DatasetInfo(DESCRIPTION, CITATION, HOMEPAGE, LICENSE, datasets.Features(features))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        folder = self.config.data_dir
        tree = scan(self._download(dl_manager) if folder is None else folder)
        rows = rows_of(tree, SITES.get(self.config.name), say=folder is None)
        # streaming reads a row on demand; building reads ahead, on as many cores as memory bears
        ahead = 0 if dl_manager.is_streaming else 2 * min(os.cpu_count() or 1, 4)
        common: dict[str, Any] = {"ahead": ahead}
        if self.config.with_lesions:
            common["lesions"] = lesions_of(tree)
        return [datasets.SplitGenerator(name, {"shards": _shards(rows, name), **common}) for name in SPLITS]

    def _download(self, dl_manager: datasets.DownloadManager) -> str:
        url = self.config.url
        way_out = f"download it by hand from {HOMEPAGE} and pass data_dir=<the zip, or the folder it unpacks to>"
        try:
            path = dl_manager.download(url)
        except Exception as error:  # each transport has its own; fsspec calls any status a FileNotFoundError
            cause = error.__cause__ or error
            said = f"{type(cause).__name__}: {cause}"
            raise ConnectionError(f"the download of {url} failed ({said}): try again, or {way_out}") from error
        if not dl_manager.is_streaming and not zipfile.is_zipfile(path):
            size = Path(path).stat().st_size
            Path(path).unlink()  # else the next try would take it for the set
            raise ConnectionError(f"the download of {url} is not a whole zip ({size} bytes): try again, or {way_out}")
        return path

    def _as_dataset(self, split: Any = datasets.Split.TRAIN, in_memory: bool = False) -> datasets.Dataset:
        if split in self.info.splits and not self.info.splits[split].num_examples:  # of a few images: datasets raises
            return datasets.Dataset.from_dict(
                {name: [] for name in self.info.features}, info=self.info.copy(), split=split
            )
        return super()._as_dataset(split, in_memory)

    def _example(self, row: Row, read: Reader, lesions: list[Lesion] | None) -> dict[str, Any]:
        """Return the example of a row, with the columns that the config adds."""
        example = read_row(row, read)
        if self.config.with_findings:
            example |= parse_findings(example["findings"])._asdict()
        if self.config.with_lesions:
            size = check_image(example["image"]["bytes"], row.image.name)
            example["lesions"] = None if lesions is None else lesion_rows(row.id, lesions, size, read)
        return example

    def _generate_examples(
        self, shards: list[list[Row]], ahead: int, lesions: dict[str, list[Lesion]] | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        with Reader() as reader, ThreadPoolExecutor(max(1, ahead // 2)) as pool:
            reader.callback(_say_odd, reader.odd_masks)
            waiting: deque[tuple[str, Future[dict[str, Any]]]] = deque()
            for row in chain.from_iterable(shards):
                waiting.append((row.id, pool.submit(self._example, row, reader, (lesions or {}).get(row.id))))
                while len(waiting) > ahead:
                    id, example = waiting.popleft()
                    yield id, example.result()
            for id, example in waiting:
                yield id, example.result()


def _say_odd(odd_masks: dict[str, str]) -> None:
    said = [f"the mask of {id} {doubt}" for id, doubt in sorted(odd_masks.items())]
    rest = f"; and {len(said) - 20} more" if len(said) > 20 else ""
    _say(f"{'; '.join(said[:20])}{rest}: view them, and leave out what is wrong" if said else "")


def _shards(rows: list[Row], split: str) -> list[list[Row]]:
    """Return the rows of a split in up to 64 shards for workers; a stream opens its zip again for each."""
    rows = [row for row in rows if split_of(row.patient_id) == split]
    length = math.ceil(len(rows) / 64) or 1
    return [rows[start : start + length] for start in range(0, len(rows), length)]


_HASH = f"rows-{ROWS_VERSION}"  # in the cache's path, where datasets puts a digest of a script's text


def _refuse_files(data_files: object) -> None:
    if data_files:
        raise ValueError(f"chest_xray_masks takes no data_files, got {data_files}: pass data_dir, a folder or a zip")


def _register(name: str) -> None:
    """Let `load_dataset(name)` find this module on datasets 4 and 5, which run no scripts.

    Their factory for known names globs `data_dir`, or the current folder, for files to load and fails where it
    recognises none (a zip, an empty folder). This builder lists its files itself, so `name` skips the globbing.
    """
    factory = datasets.load.PackagedDatasetModuleFactory
    look_for_files = factory.get_module

    def get_module(self: Any) -> datasets.load.DatasetModule:
        if self.name != name:
            return look_for_files(self)
        _refuse_files(self.data_files)
        kwargs = {"data_files": datasets.data_files.DataFilesDict(), "dataset_name": name}
        return datasets.load.DatasetModule(name, _HASH, kwargs)

    datasets.packaged_modules._PACKAGED_DATASETS_MODULES[name] = (name, _HASH)
    factory.get_module = get_module


def load(
    config: str = "all", data_dir: str | Path | None = None, split: str | None = None, **options: Any
) -> datasets.DatasetDict | datasets.Dataset | datasets.IterableDatasetDict | datasets.IterableDataset:
    """Return the X-rays of `config` (all, MC or Shenzhen): a split, or without `split` a dict of all three.

    `data_dir` is the set as a folder or a zip, or None to download it from Kaggle; `options`, such as
    `streaming=True`, are those of `datasets.load_dataset`, which this calls.

    Raises:
        FileNotFoundError: nothing of the set under `data_dir`.
        ValueError: an unknown config or split, or a damaged or mismatched file.
    """
    folder = None if data_dir is None else str(data_dir)
    return datasets.load_dataset("chest_xray_masks", config, data_dir=folder, split=split, **options)


if __name__ == "chest_xray_masks":  # under another name it is a copy that datasets 3 runs as a script
    _register(__name__)
