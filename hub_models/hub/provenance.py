"""Where the X-rays of a set come from and what limits them: sentences for its card and, by field, for Croissant."""

from collections.abc import Mapping
from typing import Any

OF_A_PROGRAM = {
    "dataCollection": "A program drew every X-ray, mask and reading; no patient is behind any of them.",
    "dataCollectionType": ["Software Collection"],
    "annotatorDemographics": ["Nobody: masks and labels are those that the program drew by."],
    "personalSensitiveInformation": ["None. Sexes and ages are invented."],
    "dataUseCases": ["Trying out code that loads, trains, evaluates or shares."],
    "dataLimitations": [
        "Anatomy and lesions are a drawing: a model that does well on them says nothing of patients.",
        "Ages, sexes and readings are invented, and do not fit the pictures as a patient's do.",
    ],
    "dataBiases": [],
}
COLLECTED = {
    "Montgomery": "Montgomery: X-rays of the tuberculosis control program of the county's Department of Health and "
    "Human Services, Maryland, USA.",
    "Shenzhen": "Shenzhen: X-rays of out-patients of a hospital in Shenzhen, Guangdong, China, taken in daily routine "
    "(Shenzhen No. 3 People's Hospital).",
}
MASKS_BY = {
    "Montgomery": "Montgomery's masks were drawn by hand under the supervision of a radiologist (Candemir et al.).",
    "Shenzhen": "Shenzhen's masks were drawn by hand by students and teachers of a technical university, the Igor "
    "Sikorsky Kyiv Polytechnic Institute (Stirenko et al.).",
}


def provenance(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return sentences by field of Croissant's vocabulary for responsible AI, from the values of a card.

    `values`: `only_synthetic`; `configs` to sites, `images` and `masks` as counts; `shenzhen_masks` of patients.
    Source: the NLM's readmes; Jaeger et al. 2014, doi 10.3978/j.issn.2223-4292.2014.11.20.
    """
    missing = values["images"] - values["masks"]
    lacking = f"Of masks, {missing} X-rays have none: `None`, not an empty mask. " if missing else ""
    if values["only_synthetic"]:
        return OF_A_PROGRAM | {"dataCollectionMissingData": lacking.rstrip() or "Every X-ray has a mask."}
    sites = [site for site in COLLECTED if site in values["configs"].values()]
    drawn = [MASKS_BY[site] for site in sites if site != "Shenzhen" or values["shenzhen_masks"]]
    detectors = (
        "Two sites and two detectors. Models tell them apart, so metrics over both together can flatter. A model of "
        "one can fail at the other."
        if len(sites) > 1
        else "One site, one detector: a model of it can fail elsewhere."
    )
    return {
        "dataCollection": " ".join(COLLECTED[site] for site in sites),
        "dataCollectionType": ["Secondary Data Analysis"],
        "dataCollectionMissingData": f"{lacking}Sex, age, findings and reading are `None` where no text states them.",
        "dataPreprocessingProtocol": ["Images are the original bytes. Masks are thresholded and have 0 and 255 only."],
        "dataAnnotationProtocol": [
            "The label is what a radiologist saw. A reading in words stands beside each X-ray.",
            *drawn,
        ],
        "annotationsPerItem": "One label, at most one reading and at most one mask.",
        "annotatorDemographics": ["How many radiologists read, and who they are, was not published."],
        "personalSensitiveInformation": [
            "The hospitals took out what names a patient before they gave the X-rays away. The publishers state that "
            "ethics boards exempted use and release from review; consent of single patients is not reported.",
            "Sex and age are health data of persons: do not try to find out whose they are.",
        ],
        "dataUseCases": ["Research on finding lungs and on reading tuberculosis. Not for decisions about a patient."],
        "dataLimitations": [
            "The label is what a radiologist saw, not what a laboratory found. Positives hold inactive and treated "
            "disease, and some readings that are not tuberculosis.",
            "There are two labels: a model trained on them has no name for other diseases.",
            "The masks are outlines drawn by people. What lies behind the heart or below the diaphragm is left out.",
            "X-rays of one patient that no reading names as such may be in different splits.",
        ],
        "dataBiases": [
            detectors,
            "Sex and age are as the readings say, misspellings read as meant; `None` is not known. Origin, HIV status "
            "and machine are not stated.",
        ],
    }
