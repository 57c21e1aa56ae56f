"""What the scripts show at the terminal: errors as one sentence, the project's own log, no advice of libraries."""

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from datasets.exceptions import DatasetGenerationError
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def plain_terminal() -> Iterator[None]:
    """Run a block with the log of `hub_models` shown; where it meets bad input, end the program with one sentence.

    Raises:
        SystemExit: for Ctrl-C, a ValueError, OSError or ImportError, with its text; other errors are bugs, and pass.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hub_models").setLevel(logging.INFO)
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()  # its warnings name addresses with signatures
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Grad strides do not match")  # of DDP, on speed
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, to their callers
    try:
        yield
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"{stopped}\n")
        raise SystemExit(128 + signal.SIGINT) from stopped
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from error
    except DatasetGenerationError as error:
        raise SystemExit(f"error: {error.__cause__ or error}") from error
