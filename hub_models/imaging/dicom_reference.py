"""What a DICOM file made of an X-ray copies from it: the X-ray's identifiers, patient and study, and nothing else."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hub_models.imaging.dicom import errors_as, name_of, read_header

if TYPE_CHECKING:
    from pydicom import Dataset

UIDS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
# Patient and General Study modules, types 1 and 2: an archive files a derived object in the X-ray's study where all
# of them are equal. Those that the X-ray lacks are written empty, which the standard allows.
PATIENT_TAGS = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
]  # fmt: skip
REFERENCE_TAGS = [
    *UIDS, *PATIENT_TAGS, "SpecificCharacterSet", "FrameOfReferenceUID", "NumberOfFrames", "Rows", "Columns",
    "LossyImageCompression", "PatientOrientation",
]  # fmt: skip
ORIENTATION = {*"APRLHF"}


@dataclass(frozen=True)
class Algorithm:
    """A model, as a DICOM file identifies it.

    Attributes:
        name: of at most 64 characters.
        version: of the software that runs it.
        digest: of the model's files, in hex; empty where it is not known.
    """

    name: str
    version: str
    digest: str = ""


def reference_of(source: bytes | str | Path, kind: str) -> "Dataset":
    """Return a new header that refers to an X-ray, from its DICOM file or bytes.

    It holds `REFERENCE_TAGS` alone, so nothing else is copied unnoticed. A value that is not valid is left out, as it
    could be any text. `kind` names in errors what is to refer to the X-ray.

    Raises:
        FileNotFoundError: the X-ray does not exist.
        ValueError: the X-ray is not DICOM, its header is damaged, or it lacks an identifier.
    """
    from pydicom import Dataset
    from pydicom.uid import UID

    name, header = name_of(source), read_header(source, REFERENCE_TAGS)
    reference = Dataset()
    with errors_as(f"the header of {name} cannot be read: get a sound copy"):
        reference.Rows, reference.Columns = int(header.Rows), int(header.Columns)
        reference.NumberOfFrames = int(header.get("NumberOfFrames") or 1)
        uids = {keyword: UID(str(header.get(keyword))) for keyword in (*UIDS, "FrameOfReferenceUID")}
        if header.get("LossyImageCompression") == "01":
            reference.LossyImageCompression = "01"
        _copy_patient(header, reference)
    for keyword, uid in uids.items():
        if uid.is_valid:
            setattr(reference, keyword, uid)
        elif keyword in UIDS:
            raise ValueError(f"no valid {keyword} in {name}: a {kind} cannot refer to it, get the original file")
    return reference


def _copy_patient(header: "Dataset", reference: "Dataset") -> None:
    """Copy the patient, the study and how the patient lies; empty where the X-ray has no valid value."""
    from pydicom.charset import python_encoding
    from pydicom.config import RAISE
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import validate_value

    sets = header.get("SpecificCharacterSet") or []
    if sets and all(one in python_encoding for one in ([sets] if isinstance(sets, str) else sets)):
        reference.SpecificCharacterSet = sets
    for keyword in PATIENT_TAGS:
        value = header.get(keyword) or ""
        try:
            validate_value(dictionary_VR(keyword), str(value), RAISE)
        except ValueError:
            value = ""
        setattr(reference, keyword, value)
    turned = [str(one) for one in header.get("PatientOrientation") or []]
    is_known = len(turned) == 2 and all(one and len(one) <= 3 and set(one) <= ORIENTATION for one in turned)
    reference.PatientOrientation = turned if is_known else None
