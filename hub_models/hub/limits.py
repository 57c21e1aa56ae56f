"""Sentences about the limits of a model, in its card and on the page."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from chest_xray_masks import SPLITS
from hub_models.models.tasks import TASKS
from hub_models.runs.run_folder import RunFolder

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
# of a TB model of own X-rays, whose label may be of any kind
OWN_SCOPE = (
    "**Anything but two classes.** A positive is what the label of its X-rays says, a negative is the rest of them. "
    "Disease that was not among them gets a probability all the same.",
    "Proof of disease, unless that label is: it may be a reading, a culture, or another test.",
    SCOPE["classification"][-1],
)
KNOWN_LIMITS = {
    "segmentation": ("The reference masks are outlines drawn by people, who differ.",),
    "classification": (
        "X-rays that a reading names as of one patient are in one split. Others may be of one patient without a word.",
    ),
}


class Limits(NamedTuple):
    """Sentences in Markdown: uses that a model is not made for, and what is known to limit it."""

    out_of_scope: tuple[str, ...]
    known: tuple[str, ...]


def limits_of(kind: str, data: Mapping[str, Any]) -> Limits:
    """Return the limits of a model for a `kind` of task; `data` are the values of its run's data.json."""
    whose = "Any X-ray of a patient, and any" if only_synthetic(data) else "Any"
    device = f"{whose} decision about a patient. This is not a medical device; nobody has tested it in care."
    sites = (
        "X-rays of one source. Metrics say nothing about another hospital, whose machines and patients differ."
        if "source" in data
        else "Two sites and two detectors. Models tell them apart, by brightness and markers, so metrics over both "
        "together can flatter."
    )
    scope = OWN_SCOPE if "source" in data and kind == "classification" else SCOPE[kind]
    return Limits((device, *scope), (sites, *KNOWN_LIMITS[kind]))


def threshold_source(run: RunFolder) -> str:
    """Return where the threshold of a run's model comes from, as a sentence; empty for a model without one."""
    if TASKS[run.config.task].learns_masks:
        return ""
    if not run.history:
        count = len(run.data["validation"])
        return (
            f"Threshold in use: {run.settings.threshold:.3f}, from the validation split of its training (n {count})."
        )
    last = run.history[-1]
    drawn = f", {last['synthetic']} of them synthetic" if last["synthetic"] else ""
    local = f"{last['data']} (n {last['images']}, {last['positives']} positive{drawn}; {last['date']})"
    return f"Threshold in use: {last['threshold']:.3f}, from local calibration on {local}, by the rule {last['rule']}."


def only_synthetic(data: Mapping[str, Any]) -> bool:
    """Return whether all X-rays of a run are synthetic, by its data.json."""
    return bool(data.get("synthetic", 0) == sum(len(data.get(split, ())) for split in SPLITS))


def plain_sentences(limits: Limits) -> tuple[str, ...]:
    """Return limits as sentences without Markdown, of which those out of scope say so."""
    sentences = (*(f"Not for: {one}" for one in limits.out_of_scope), *limits.known)
    return tuple(one.replace("*", "").replace("`", "") for one in sentences)
