"""What a model is not for and what limits it: the sentences that its card and the page share."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from chest_xray_masks import SPLITS

SCOPE = {
    "segmentation": (
        "Lateral or CT images, and children, of whom the sets hold few.",
        "Measuring what lies behind the heart or below the diaphragm: the reference masks leave that out.",
    ),
    "classification": (
        "**Anything but two classes.** The data hold normal X-rays and tuberculosis. Pneumonia, cancer and other "
        "disease are not in them: such an X-ray gets a probability of tuberculosis all the same.",
        "Proof of disease. A positive is a *radiological label*: what a radiologist saw, not what a laboratory found; "
        "it covers inactive and treated tuberculosis.",
        "Triage or screening without a new threshold, chosen and tested on X-rays of the place in question.",
    ),
}
KNOWN = {
    "segmentation": ("The reference masks are outlines drawn by people, who differ.",),
    "classification": (
        "The readings name some X-rays as of one patient, which stand in one split. Others may be of one patient "
        "without being named.",
    ),
}


class Limits(NamedTuple):
    """Sentences in Markdown: what a model is not to be used for, and what is known to limit it."""

    out_of_scope: tuple[str, ...]
    known: tuple[str, ...]


def limits_of(kind: str, data: Mapping[str, Any]) -> Limits:
    """Return the limits of a model of a task's `kind`, whose run says `data` (data.json) of its X-rays."""
    whose = "Any X-ray of a patient, and any" if only_synthetic(data) else "Any"
    device = f"{whose} decision about a patient. This is not a medical device; nobody has tested it in care."
    sites = (
        "Two sites and two detectors. Models tell them apart, by brightness and markers, so metrics over both "
        "together can flatter."
    )
    return Limits((device, *SCOPE[kind]), (sites, *KNOWN[kind]))


def only_synthetic(data: Mapping[str, Any]) -> bool:
    """Return whether all X-rays of a run are synthetic, by its data.json."""
    return bool(data.get("synthetic", 0) == sum(len(data.get(part, ())) for part in SPLITS))
