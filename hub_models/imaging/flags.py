"""Codes of what speaks against trusting a reading, each with the message that people see; no import but the stdlib."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Flag(StrEnum):
    """A stable code, equal to its string: `Flag.NO_LUNGS == "no_lungs"`.

    `[(flag, flag.when, flag.message) for flag in Flag]` is the table of all flags for the docs.

    Attributes:
        when: the condition that raises the flag.
        message: what people read; names in braces stand for values, which `raised` fills in.
    """

    when: str
    message: str

    def __new__(cls, code: str, when: str, message: str) -> Self:
        """Make a member whose value is the code alone."""
        flag = str.__new__(cls, code)
        flag._value_, flag.when, flag.message = code, when, message
        return flag

    def raised(self, **values: str) -> "RaisedFlag":
        """Return the flag as raised on one X-ray, the values put into its message."""
        return RaisedFlag(self, self.message.format(**values))

    BLANK = "blank", "the gray values hardly differ", "the image is blank: it has no contrast"
    COLOUR = (
        "colour",
        "the image has more colour than JPEG adds to a gray image",
        "colour image: only its luminance is read; an X-ray comes from the machine in gray",
    )
    INVERTED = (
        "inverted",
        "the middle of the image is darker than both sides",
        "darker in the middle than on both sides: black and white swapped, or the X-ray cut",
    )
    OTHER_BODY_PART = (
        "other_body_part",
        "the DICOM header names another part of the body (Body Part Examined)",
        "the DICOM header names a part of the body other than the chest",
    )
    NOT_FRONTAL = (
        "not_frontal",
        "the DICOM header says lateral or turned (View Position, Patient Orientation)",
        "the DICOM header describes a lateral or turned X-ray: the models know only upright frontal ones, and right "
        "and left may be wrong",
    )
    MIRRORED = (
        "mirrored",
        "the DICOM header says mirrored (Patient Orientation)",
        "the DICOM header describes a mirrored X-ray: right and left follow it, but the models know only "
        "unmirrored ones",
    )
    RAW_DETECTOR_DATA = (
        "raw_detector_data",
        "the DICOM header says FOR PROCESSING (Presentation Intent Type)",
        "the DICOM header describes raw data of the detector, not for presentation",
    )
    BURNED_IN_TEXT = (
        "burned_in_text",
        "the DICOM header says that text is burned in (Burned In Annotation)",
        "the DICOM header says that text is burned into the pixels: it may name the patient",
    )
    UNUSABLE_WINDOW = (
        "unusable_window",
        "the DICOM header holds a window without a width or with an unknown function",
        "the window in the DICOM header cannot be used: the image is read over its full range",
    )
    CLIPPING_WINDOW = (
        "clipping_window",
        "the window or table in the DICOM header makes most of the image black or white, or all of it one gray",
        "the window in the DICOM header {effect}: the image is read over its full range",
    )
    UNCLEAR_POLARITY = (
        "unclear_polarity",
        "the DICOM header says MONOCHROME2 and an inverse presentation, which the standard excludes",
        "the DICOM header says both that 0 is black (MONOCHROME2) and to invert (Presentation LUT Shape): 0 is read "
        "as black",
    )
    OTHER_SEGMENTER = (
        "other_segmenter",
        "the TB model was trained on the lungs that another lung model finds",
        "the TB model was trained with another lung model: its probability and threshold may not hold",
    )
    OUT_OF_DISTRIBUTION = (
        "out_of_distribution",
        "the distance from the X-rays that the lung model learned from is above the limit, within which 98% of "
        "these lie",
        "unlike the X-rays that the lung model learned from (distance {distance}, limit {limit}): from another "
        "machine or hospital, turned, cut, inverted, or no frontal chest X-ray",
    )
    NO_LUNGS = (
        "no_lungs",
        "the lung mask is empty",
        "no lungs found: not a frontal chest X-ray, or one that the model cannot read",
    )
    ONE_LUNG = (
        "one_lung",
        "one lung is smaller than 30% of the other",
        "one lung only: the {side} one is {ratio} of the other",
    )
    IMPLAUSIBLE_SIZE = (
        "implausible_size",
        "both lungs together take less than 6% or more than 46% of the image",
        "lungs of implausible size: {fraction} of the image, not {low} to {high}",
    )
    TOUCHES_BORDER = (
        "touches_border",
        "the lungs touch more than 10% of a border's length",
        "lungs touch the border: {borders}; the X-ray may be cut",
    )
    NO_DICOM_SEG = (
        "no_dicom_seg",
        "a DICOM Segmentation was to be written and cannot refer to the X-ray",
        "no DICOM Segmentation: {reason}",
    )
    NO_DICOM_SR = (
        "no_dicom_sr",
        "a DICOM Structured Report was to be written and cannot refer to the X-ray",
        "no DICOM Structured Report: {reason}",
    )


@dataclass(frozen=True)
class RaisedFlag:
    """A flag that holds of one X-ray: its code, and its message with the X-ray's own values."""

    code: Flag
    message: str
