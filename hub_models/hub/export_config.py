"""Options of an export of X-rays: a frozen dataclass, checked when made, light enough for the command line."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from hub_models.runs.config import COLUMNS_HELP, DATA_HELP, POSITIVE_HELP, REVISION_HELP, TABLE_HELP

SHARD_SIZE = "500MB"


@dataclass(frozen=True)
class ExportConfig:
    """What to build, and where to put it."""

    data_dir: str = field(metadata={"help": DATA_HELP})
    table: str | None = field(default=None, metadata={"help": TABLE_HELP})
    columns: str | None = field(default=None, metadata={"help": COLUMNS_HELP})
    positive: str | None = field(default=None, metadata={"help": POSITIVE_HELP})
    data_revision: str | None = field(default=None, metadata={"help": REVISION_HELP})
    output: Path | None = field(
        default=None, metadata={"help": "folder to make (default with --repo_id: a temporary one)"}
    )
    repo_id: str | None = field(default=None, metadata={"help": "dataset repository to push to, OWNER/NAME"})
    max_shard_size: str = field(default=SHARD_SIZE, metadata={"help": "approximate size of a Parquet file"})
    num_shards: int = field(
        default=1,
        metadata={"help": "minimum number of Parquet files per split, so that as many workers can stream it"},
    )
    license: str | None = field(
        default=None,
        metadata={"help": "the Hub's name for a licence, such as cc-by-4.0; a push needs one, except that of the set"},
    )
    public: bool = field(
        default=False,
        metadata={"help": "make the repository and its history public; X-rays of patients are gated"},
    )
    i_accept_the_terms: bool = field(
        default=False, metadata={"help": "acceptance of the terms of the X-rays, which --public needs"}
    )
    version: str | None = field(
        default=None, metadata={"help": "tag to set (default: the builder's version of the data)"}
    )
    dry_run: bool = field(default=False, metadata={"help": "build, say what would go, send nothing"})

    def __post_init__(self) -> None:
        """Check what needs no X-ray.

        Raises:
            ValueError: nowhere to put the set, a count below 1, a bad name of a repository or version, or public
                without the terms.
        """
        if not (self.output or self.repo_id):
            raise ValueError("no place for the set: pass --output, a folder to make, or --repo_id, or both")
        if self.num_shards < 1:
            raise ValueError(f"num_shards must be 1 or more, got {self.num_shards}")
        if self.repo_id:
            from huggingface_hub.utils import validate_repo_id

            validate_repo_id(self.repo_id)
        for name in ("public", "dry_run"):
            if getattr(self, name) and not self.repo_id:
                raise ValueError(f"--{name} is only for a push: pass --repo_id too, or leave --{name} out")
        if self.version is not None and not re.fullmatch(r"(?!main$)(?!.*\.\.)\w([\w.-]*\w)?", self.version):
            raise ValueError(f"version must be letters, digits, dots and dashes, such as 1.0.0, got {self.version!r}")
        if self.public and not (self.i_accept_the_terms or self.dry_run):
            raise ValueError(
                "--public shares the X-rays with all; NLM asks not to share the Montgomery set outside one's group, "
                "the Shenzhen masks are CC BY-NC-SA 4.0, and other X-rays need a right to publish: read the terms "
                "with --dry_run and, if you may, pass --i_accept_the_terms too"
            )
