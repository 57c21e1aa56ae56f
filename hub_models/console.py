"""What the commands show at the terminal: errors as one sentence, the project's own log, no advice of libraries."""

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hub_models.files import named_disk
from hub_models.lifetime import end_with_launcher, say_last

# what gloo and NCCL say to a process that waits for one that ended, whose own error tells why
PEER_ENDED = re.compile(r"(closed|reset) by peer|remote process exited")


@contextmanager
def plain_terminal() -> Iterator[None]:
    """Run a block with the log of `hub_models` shown, and end the program with one sentence for bad input.

    Raises:
        SystemExit: for Ctrl-C, a ValueError, OSError or ImportError, with its text; other errors are bugs, and pass.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hub_models").setLevel(logging.INFO)
    _quiet_libraries()
    warnings.filterwarnings("ignore", message="Grad strides do not match")  # of DDP, on speed
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, to their callers
    end_with_launcher()
    try:
        with named_disk(Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()):  # but for held folders
            yield
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"{stopped}\n")
        raise SystemExit(128 + signal.SIGINT) from stopped
    except (ValueError, OSError, ImportError) as error:
        raise _ended(error) from error
    except _generation_error() as error:
        raise _ended(error.__cause__ or error) from error
    except RuntimeError as error:
        if not PEER_ENDED.search(str(error)):
            raise
        raise SystemExit("another process of this launch ended, and so does this one") from error


def _ended(error: BaseException) -> SystemExit:
    """Return the end of the program with one sentence, which stands last though a launcher says more after it."""
    say_last(f"error: {error}")
    return SystemExit(f"error: {error}")


def _quiet_libraries() -> None:
    """Silence the advice of libraries by what they read when they are imported: no command needs all of them."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its warnings name addresses with signatures
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _generation_error() -> tuple[type[Exception], ...]:
    """Return the error in which `datasets` wraps one of the builder; none where nothing has imported `datasets`."""
    exceptions = sys.modules.get("datasets.exceptions")
    return (exceptions.DatasetGenerationError,) if exceptions else ()


def counted(number: int, noun: str) -> str:
    """Return `number` with its noun: "1 image", "2 images", "2 processes"."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"
