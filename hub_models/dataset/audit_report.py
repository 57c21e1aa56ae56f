"""Define the report of an audit: what can be odd, what to do about it, what is known as odd, and how it is shown."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import chest_xray_masks as cxm
from hub_models.console import counted

if TYPE_CHECKING:
    from rich.table import Table

PUBLISHED = {  # doi 10.3978/j.issn.2223-4292.2014.11.20; the Shenzhen masks: arXiv 1803.01199
    "MC": {"images": 138, "normal": 80, "tuberculosis": 58, "masks": 138, "readings": 138},
    "Shenzhen": {"images": 662, "normal": 326, "tuberculosis": 336, "masks": 566, "readings": 662},
}


class Kind(NamedTuple):
    """Whether findings of a kind make a copy off, unless they are `PUBLISHED_ODDITIES`, and what to do about them."""

    is_off: bool
    advice: str


KINDS = {
    "synthetic X-ray": Kind(True, "for trials only: a program drew it"),
    "X-ray missing": Kind(
        True, "download the set again, or continue with fewer: results are not those of the whole set"
    ),
    "not of the published set": Kind(
        True, "leave it out, unless you added it: none of the published 800 has this name"
    ),
    "unreadable file": Kind(True, "download again: the builder refuses it"),
    "file not used": Kind(True, "put X-rays into a folder CXR_png or images, masks into masks, or delete them"),
    "too many pixels": Kind(True, "download again, or scale it down: the builder refuses it"),
    "blank image": Kind(True, "download again, or leave out"),
    "X-ray of two gray values": Kind(True, "view it: it may be a mask"),
    "image without reading": Kind(True, "download the reading again, or accept that sex, age and findings are None"),
    "reading without image": Kind(True, "download the X-ray again: the reading is not used"),
    "mask without image": Kind(True, "download the X-ray again: the mask is not used"),
    "mask missing": Kind(True, "download the masks again, or accept that the mask is None"),
    "one lung of two": Kind(True, "download the mask of the other lung: half a pair is not used"),
    "mask of another size": Kind(True, "download both again: the builder refuses them"),
    "mask of gray values": Kind(True, "download again: it may be an X-ray"),
    "empty mask": Kind(True, "download again, or leave out"),
    "mask of no lungs": Kind(True, "view it: invert it where black is lung, else leave it out"),
    "mask of one part": Kind(True, "view it: harmless if the lungs touch; leave it out if one is missing"),
    "mask of more than two parts": Kind(True, "view it: harmless where a lung is cut in two, else leave out"),
    "label against reading": Kind(True, "view it: the label is taken from the file name; leave it out if unsure"),
    "two labels": Kind(True, "leave out the one that is not of the published set"),
    "same pixels": Kind(True, "leave out all but one, or download again"),
    "near-duplicate": Kind(True, "view both: leave out one if they are one X-ray"),
    "copies differ": Kind(True, "keep one copy: the builder refuses both"),
    "test/ copy of no image": Kind(True, "download again: the X-ray that it repeats is missing"),
    "test/ copy of another image": Kind(True, "download again: one of two files has a wrong name"),
    "patient in several splits": Kind(True, "give them one split: a training refuses them"),
    "copy not used": Kind(False, "harmless: a better copy is read"),
    "site absent": Kind(False, "harmless: the two sets are published separately"),
    "X-ray without label": Kind(False, "harmless for lung masks; a TB model is not trained or tested on it"),
    "image without mask": Kind(False, "harmless: its mask is None; 96 of the 800 were published without one"),
    "lung of odd area": Kind(False, "view it: harmless if the lung is diseased; leave it out if it is drawn wrong"),
    "specks in mask": Kind(False, "harmless: stray pixels, each speck below 0.2 % of the image"),
    "reading lacks a value": Kind(False, "harmless: that value is None"),
    "table known to be wrong": Kind(False, "harmless: put right, or None where the right value is not known"),
    "table against reading": Kind(False, "harmless: the reading is taken"),
    "may be one patient": Kind(False, "harmless within one split; across two, leave out one"),
}

# Findings that the published set itself has, by kind and ids, with the reason. Of the 800; the areas of 525 of them.
PUBLISHED_ODDITIES = {
    ("mask of more than two parts", ("CHNCXR_0361_1",)): "the edges of its polygon cross",
    ("lung of odd area", ("CHNCXR_0339_1",)): "drawn large",
    ("lung of odd area", ("CHNCXR_0513_1",)): "drawn large",
    ("lung of odd area", ("CHNCXR_0603_1",)): "bilateral tuberculosis",
    ("lung of odd area", ("CHNCXR_0606_1",)): "bilateral tuberculosis",
    ("may be one patient", ("MCUCXR_0254_1", "MCUCXR_0255_1")): "readings alike",
    ("may be one patient", ("MCUCXR_0367_1", "MCUCXR_0369_1")): "readings alike",
    ("may be one patient", ("MCUCXR_0372_1", "MCUCXR_0375_1")): "readings alike",
}
LEGEND = {
    "off": "not as published: do what its line says before you rely on the copy",
    "info": "worth knowing; the copy is sound",
    "known": "also in the published set; the copy is sound",
}
ADVICE_OF_OWN = {  # where it differs from that of the published set
    "unreadable file": "get it again, or leave it out: a training refuses it",
    "too many pixels": "scale it down: a training refuses it",
    "blank image": "get it again, or leave it out",
    "mask of another size": "get both again: a training refuses them",
    "mask of gray values": "get it again: it may be an X-ray",
    "empty mask": "get it again, or leave it out",
    "same pixels": "keep one; if their labels or masks differ, find out which is right",
    "image without mask": "harmless for a TB model; no lung model is trained or tested on it",
}
LEGEND_OF_OWN = {"off": "do what its line says before you rely on it", "info": "worth knowing; the X-rays are sound"}


class Finding(NamedTuple):
    """One odd thing: a key of `KINDS`, the ids (config, path) that it is about, and what was seen."""

    kind: str
    ids: tuple[str, ...]
    message: str = ""

    @property
    def known(self) -> str | None:
        """Return why the published set has it, too; None where it has not."""
        return PUBLISHED_ODDITIES.get((self.kind, self.ids))

    @property
    def is_off(self) -> bool:
        """Return whether it makes the copy off: neither mere information nor known."""
        return KINDS[self.kind].is_off and self.known is None

    @property
    def mark(self) -> str:
        """Return its key in `LEGEND`."""
        return "off" if self.is_off else "known" if self.known else "info"


@dataclass
class Audit:
    """What `audit` found; `counts` as in `PUBLISHED`, `modes` and `mask_values` as numbers of files."""

    data_dir: str
    counts: dict[str, dict[str, int]]
    missing: dict[str, list[str]] = field(default_factory=dict)  # published ids of its sites, by what they lack
    synthetic: int = 0  # images that a program drew
    modes: dict[str, int] = field(default_factory=dict)
    mask_values: dict[str, int] = field(default_factory=dict)
    reported: dict[str, dict[str, int]] = field(default_factory=dict)  # X-rays by what readings say, per config
    test_copies: int = 0  # those with the pixels of their image
    is_own: bool = False  # not the published set, whose counts do not matter then
    sizes: dict[str, int] = field(default_factory=dict)  # the most frequent
    second_copies: int = 0  # files beyond the first of their role and id
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_off(self) -> bool:
        """Return whether any finding is more than information and not known."""
        return any(finding.is_off for finding in self.findings)

    @property
    def is_empty(self) -> bool:
        """Return whether the copy holds no image at all."""
        return not self._total("images")

    @property
    def is_complete(self) -> bool:
        """Return whether everything published of the copy's sites is there, and no synthetic X-ray."""
        return not (self.is_empty or self.synthetic or any(self.missing.values()))

    def _total(self, what: str) -> int:
        return sum(row[what] for row in self.counts.values())

    def headline(self) -> str:
        """Return how much of the published set the copy holds, in one line."""
        if self.is_own:
            held = f"{self._total('images')} X-rays, {self._total('masks')} masks"
            return f"{held} of {', '.join(self.counts)}"
        drawn = f"{counted(self.synthetic, 'synthetic X-ray')} (phantoms)"
        if self.synthetic and self.synthetic == self._total("images"):
            return ", ".join([drawn, *(counted(self._total(what), what[:-1]) for what in ("masks", "readings"))])
        configs = [config for config, row in self.counts.items() if any(row.values())]
        said = []
        for what, name in (("images", "X-rays"), ("masks", "masks"), ("readings", "readings")):
            published = sum(PUBLISHED[config][what] for config in configs)
            of_all = "" if self.is_complete and what == "readings" else f" of {published}"
            said.append(f"{published - len(self.missing[what])}{of_all} {name}")
        site = "" if len(configs) != 1 else f" ({cxm.SITES[configs[0]]} alone)"
        mixed = f"; {drawn} among them" if self.synthetic else ""
        return f"{'complete: ' if self.is_complete else ''}{', '.join(said)}{site}{mixed}"

    def of_kind(self, kind: str) -> list[Finding]:
        """Return the findings of one of `KINDS`."""
        return [finding for finding in self.findings if finding.kind == kind]

    def advice(self, kind: str) -> str:
        """Return what to do about the findings of one of `KINDS`."""
        return ADVICE_OF_OWN.get(kind, KINDS[kind].advice) if self.is_own else KINDS[kind].advice

    def to_dict(self) -> dict[str, object]:
        """Return all of it as JSON types, with the published counts, and `is_off` for the whole and per finding."""
        marks = ({"ids": list(one.ids), "is_off": one.is_off, "known": one.known} for one in self.findings)
        findings = [one._asdict() | mark for one, mark in zip(self.findings, marks, strict=True)]
        advice = {kind: self.advice(kind) for kind in KINDS if self.of_kind(kind)}
        whole = {"is_off": self.is_off, "is_complete": self.is_complete, "advice": advice, "findings": findings}
        return vars(self) | {"published": PUBLISHED} | whole

    def table(self) -> "Table":
        """Return what people read: the counts, then a row per kind of finding; `to_dict` has the whole lists."""
        from rich.table import Table  # here: the reader imports a constant by way of this module, without rich
        from rich.text import Text

        title = Text(f"{'something' if self.is_off else 'nothing'} is off: {self.data_dir}")
        legend = LEGEND_OF_OWN if self.is_own else LEGEND
        caption = Text("\n".join(f"{mark}: {text}" for mark, text in legend.items()))
        table = Table("", "what", "files", "details", title=title, caption=caption, caption_justify="left")
        for config, counts in self.counts.items():
            published = {what: "" if self.is_own else f" of {PUBLISHED[config][what]}" for what in counts}
            held = ", ".join(f"{what} {count}{published[what]}" for what, count in counts.items())
            table.add_row("", config if self.is_own else f"{config}, of the published set", "", held)
        sizes = [("sizes", self.sizes)] if self.is_own else []
        for what, numbers in (*sizes, ("modes", self.modes), ("mask values", self.mask_values)):
            held = ", ".join(f"{name}: {count}" for name, count in numbers.items())
            soft = "\nharmless: the edges are soft; above 127 is lung" if "soft edges" in numbers else ""
            table.add_row("", what, str(sum(numbers.values())), held + soft)
        for config, numbers in self.reported.items():
            said = ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in numbers.items())
            table.add_row("", f"{config}, by the readings", "", said)
        if self.is_own:
            table.add_section()
        else:
            self._add_copies(table)
        for kind in KINDS:
            for mark in LEGEND:
                if found := [one for one in self.of_kind(kind) if one.mark == mark]:
                    style = "bold red" if mark == "off" else ""
                    details = Text("\n").join([Text(self.advice(kind), "bold"), Text(_listed(found))])
                    table.add_row(Text(mark, style), kind, str(len(found)), details)
        return table

    def _add_copies(self, table: "Table") -> None:
        table.add_row("", "test/ copies", str(self.test_copies), "harmless: the same pixels as their image; not read")
        table.add_row("", "second copies", str(self.second_copies), "harmless: not read", end_section=True)


def _listed(findings: list[Finding]) -> str:
    """Return the first ten findings of one kind, a line each if any has a message."""
    lines = [" ".join(filter(None, (*one.ids, one.message, one.known and f"({one.known})"))) for one in findings]
    lines[10:] = [f"and {len(lines) - 10} more: --json FILE lists all"] if len(lines) > 10 else []
    return ("\n" if any(one.message for one in findings) else ", ").join(lines)
