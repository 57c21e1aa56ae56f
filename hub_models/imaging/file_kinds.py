"""What a file is by its first bytes, whatever its name says; its name tells where they do not."""

import re
from collections.abc import Collection
from pathlib import Path

DICOM_SUFFIXES = {".dcm", ".dicom", ".ima"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2", ".ppm"} | DICOM_SUFFIXES
ARCHIVES = {".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".iso"}
OTHERS = {  # no images; the first bytes of all but these and ROWS are looked at
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".htm", ".md", ".rst", ".pdf", ".rtf", ".doc"),
    *(".docx", ".odt", ".xls", ".xlsx", ".ods", ".ppt", ".pptx", ".log", ".yaml", ".yml", ".ini", ".inf", ".cfg"),
    *(".py", ".ipynb", ".sh", ".bat", ".exe", ".dll", ".js", ".css", ".db", ".sqlite", ".parquet", ".arrow", ".npy"),
    *(".npz", ".mat", ".pkl", ".pt", ".pth", ".safetensors", ".onnx", ".h5", ".hdf5", ".mp4", ".avi", ".mov", ".svg"),
}
HIDDEN = re.compile(r"(^|/)(\.[^/]*|__MACOSX)(/|$)")  # or a Mac's own
DIRECTORY = re.compile(r"(^|/)DICOMDIR$", re.I)
# names that mark a folder of predictions, a training, a pre-training, an evaluation, a calibration, an export
WRITTEN = (
    *({"predict.json"}, {"train_config.json"}, {"pretrain_config.json"}, {"results.json", "per_image.parquet"}),
    *({"calibration.json", "calibration.html"}, {".build.json"}),
)
PICTURE = re.compile(  # PNG, JPEG, TIFF, GIF, WebP, JPEG 2000, BMP, PPM
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|II[*+]\0|MM\0[*+]|GIF8[79]a|RIFF....WEBP|\0{3}\x0cjP  |\xff\x4f\xff\x51"
    rb"|BM.{4}\0{4}|P[1-6]\s+[#0-9]",
    re.S,
)
PHONE, VALUES, VOLUME = (
    "save it as JPEG (on an iPhone: Settings, Camera, Formats, Most Compatible)",
    "save it as PNG or TIFF of 16 bits",
    "save the X-ray as PNG of 16 bits or DICOM",
)
UNREAD = (  # first bytes of what is not read, what it is, and the way out
    (rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC or HEIF, a phone's photograph", PHONE),
    (rb".{4}ftypavi[fs]", "AVIF", "save it as PNG or JPEG"),
    (rb".{4}ftypcrx |FUJIFILMCCD-RAW|II(RO|RS|U\0)|MMOR|II\*\0.{4}CR", "a camera's raw image", VALUES),
    (rb"\xff\x0a|\0{3}\x0cJXL ", "JPEG XL", "save it as PNG or JPEG"),
    (rb"8BPS", "a Photoshop file", VALUES),
    (rb"v/1\x01", "OpenEXR", VALUES),
    (rb".{344}n[i+]1\0|NRRD000|ObjectType *=", "a file of a volume (NIfTI, NRRD, MetaImage)", VOLUME),
)
UNREAD_BY_NAME = {
    **dict.fromkeys((".heic", ".heif", ".hif"), UNREAD[0][1:]),
    ".avif": UNREAD[1][1:],
    ".jxl": UNREAD[3][1:],
    ".img": ("of values without a header, as JSRT's (2048x2048, 12 bits in 16, big-endian)", VALUES),
    **dict.fromkeys((".nii", ".mha", ".mhd", ".nrrd"), UNREAD[-1][1:]),
}
# of cameras, most of them TIFF with a small preview
RAW_SUFFIXES = {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}


def is_written(names: Collection[str]) -> bool:
    """Return whether a folder with files of these names is what a command wrote: its images are not X-rays."""
    return any(marks <= {*names} for marks in WRITTEN)


def is_dicom(head: bytes, name: str = "") -> bool:
    """Return whether a file is DICOM, by its first `HEAD_BYTES`, else by the suffix of its name."""
    from chest_xray_masks import is_bare_dicom  # late: the builder imports `datasets`

    if head[128:132] == b"DICM" or is_bare_dicom(head):
        return True
    return Path(name).suffix.lower() in DICOM_SUFFIXES and not PICTURE.match(head)


def unread_kind(head: bytes, name: str = "") -> str | None:
    """Return what a file is that is not read, and the way out, as the end of a sentence; None for any other file."""
    what = next((one[1:] for one in UNREAD if re.match(one[0], head, re.S)), None)
    suffix = Path(name).suffix.lower()
    if what is None and suffix in RAW_SUFFIXES:
        what = UNREAD[2][1:]
    if what is None and not PICTURE.match(head):
        what = UNREAD_BY_NAME.get(suffix)
    return what and f"is {what[0]}, which is not read: {what[1]}"


def check_kind(head: bytes, name: str) -> None:
    """Raise ValueError, with the way out, for a file of a kind that is not read."""
    if what := unread_kind(head, name):
        raise ValueError(f"{name} {what}")


def is_image(head: bytes) -> bool:
    """Return whether a file of an unknown name is an image by its first `HEAD_BYTES`, one that is not read, too."""
    return PICTURE.match(head) is not None or is_dicom(head) or unread_kind(head) is not None
