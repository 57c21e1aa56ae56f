"""Read X-rays with models: `ChestXrayReader`, from any file to lungs, probability, decision and flags."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from hub_models.dataset.published import pixel_spacing_mm
from hub_models.imaging.flags import Flag, RaisedFlag
from hub_models.imaging.gray import read_xray
from hub_models.imaging.masks import keep_two_lungs
from hub_models.imaging.source import Source
from hub_models.models.out_of_distribution import distance_flags
from hub_models.predict.checks import Lungs, flags_of, image_flags, lungs_of
from hub_models.predict.loading import Backend, ModelFolder, XrayModel, find_models, load_model

logger = logging.getLogger(__name__)

FORWARD_BATCH = 16  # X-rays in a forward pass
LEAST_SIDE = 32  # pixels; below it nothing can be seen
VERDICTS = {True: "tuberculosis suspected", False: "tuberculosis not suspected"}
ADVICE = {
    True: "at or above the threshold; a radiologist and a laboratory test must tell",
    False: "below the threshold, which does not rule it out",
}


@dataclass(frozen=True)
class OpenedXray:
    """An X-ray as decoded.

    Attributes:
        name: of the file, or another.
        gray: PIL image, mode L, or F in [0, 255].
        spacing_mm: (row, column) of its pixels; None where it is not known.
        flags: what is odd in the image, or said by its DICOM header, before any model has seen it.
    """

    name: str
    gray: Image.Image
    spacing_mm: tuple[float, float] | None = None
    flags: tuple[RaisedFlag, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What the models say of one X-ray.

    Attributes:
        name: of the file, or `image N`, counted from 1.
        height, width: of the X-ray in pixels.
        spacing_mm: (row, column) of its pixels; None where it is not known.
        mask: (H, W) bool lungs on the X-ray's own pixels; None without a segmenter.
        probability: calibrated, in [0, 1], that a radiologist labels it tuberculosis; None without a classifier.
        threshold: probability from which on tuberculosis is suspected, as stored with the classifier.
        distance: from the X-rays that the segmenter learned from, in standard deviations; None where it is not known.
        limit: distance beyond which one in fifty of those lie.
        image_flags: what is odd in the image, its DICOM header or the choice of models.
    """

    name: str
    height: int
    width: int
    spacing_mm: tuple[float, float] | None = None
    mask: np.ndarray | None = None
    probability: float | None = None
    threshold: float | None = None
    distance: float | None = None
    limit: float | None = None
    image_flags: tuple[RaisedFlag, ...] = ()

    @cached_property
    def lungs(self) -> Lungs | None:
        """Return the areas of the right and the left lung; None without a segmenter."""
        return None if self.mask is None else lungs_of(self.mask, self.spacing_mm, self.is_mirrored)

    @cached_property
    def flags(self) -> tuple[RaisedFlag, ...]:
        """Return what speaks against trusting the prediction, each with its message; empty where nothing does."""
        of_lungs = () if self.lungs is None else flags_of(self.lungs)
        return self.image_flags + distance_flags(self.distance, self.limit) + of_lungs

    @property
    def flag_codes(self) -> tuple[Flag, ...]:
        """Return the codes of `flags`, as in `Flag.NO_LUNGS in prediction.flag_codes`."""
        return tuple(flag.code for flag in self.flags)

    @property
    def is_mirrored(self) -> bool:
        """Return whether the patient's right is at the right of the image; only a DICOM header says so."""
        return any(flag.code == Flag.MIRRORED for flag in self.image_flags)

    @property
    def is_suspected(self) -> bool | None:
        """Return whether the probability reaches the threshold; None without a classifier."""
        if self.probability is None or self.threshold is None:
            return None
        return self.probability >= self.threshold

    @property
    def verdict(self) -> str | None:
        """Return `is_suspected` in words, which name the flags where there are any; None without a classifier."""
        if self.is_suspected is None:
            return None
        return f"{VERDICTS[self.is_suspected]}{', but see the flags' if self.flags else ''}"

    @property
    def advice(self) -> str | None:
        """Return what the verdict rests on and what it leaves open; None without a classifier."""
        return None if self.is_suspected is None else ADVICE[self.is_suspected]

    @property
    def decision(self) -> str | None:
        """Return verdict and advice as a sentence for people; code reads `is_suspected` and `flag_codes`."""
        return None if self.is_suspected is None else f"{self.verdict}: {self.advice}"


class ChestXrayReader:
    """Reads X-rays with a lung model, a TB model, or both: `reader.read(["a.png", "b.dcm"])`.

    A TB model of the lung region was trained and tested with the lungs of one segmenter. With the lungs of another the
    log warns, and every prediction is flagged.
    """

    def __init__(
        self,
        segmenter: str | Path | ModelFolder | None = None,
        classifier: str | Path | ModelFolder | None = None,
        revision: str | None = None,
        backend: Backend | None = None,
    ) -> None:
        """Load models from run folders, exported folders or Hub ids, a run's onto the accelerator where there is one.

        Without a segmenter and a classifier, both are those that come with the package, `bundled:lungs` and
        `bundled:tb`; with one of the two, the reader has no other.

        `revision` is the branch, tag or commit of those that come from the Hub. `backend` is "torch" or "onnx", by
        default as `find_model` chooses it; exported folders need no torch.

        Raises:
            FileNotFoundError: nothing there, or a run that has not ended.
            ImportError: torch or onnxruntime is not installed, and a model needs it.
            ValueError: a model of another task, damaged weights, or a classifier that sees only the lungs, without a
                segmenter to find them.
        """
        lungs, tb = find_models(segmenter, classifier, revision, backend)
        self.segmenter = None if lungs is None else load_model(lungs, "lung_segmentation")
        self.classifier = None if tb is None else load_model(tb, "tb_classification")
        self.sees_lungs = self.classifier is not None and self.classifier.settings.region != "image"
        if self.sees_lungs and self.segmenter is None:
            raise ValueError(f"{classifier} sees lungs only: pass a segmenter=<run folder or Hub id> that finds them")
        self.model_flags: tuple[RaisedFlag, ...] = ()
        if self.sees_lungs and lungs is not None and tb is not None:
            known = tb.segmenter
            if known and known != lungs.digest:
                self.model_flags = (Flag.OTHER_SEGMENTER.raised(),)
                known, message = f"the lungs that model {known[:16]} finds", Flag.OTHER_SEGMENTER.message
                logger.warning("warning: %s was trained with %s, not %s: %s", classifier, known, segmenter, message)

    def read(self, images: Iterable[Source] | Source) -> list[Prediction]:
        """Return a prediction for each X-ray: a path, a PIL image, an array, or the bytes of a file.

        Raises:
            FileNotFoundError: no such file.
            TypeError: an X-ray is none of these.
            ValueError: an X-ray cannot be decoded, or has a side below LEAST_SIDE pixels.
        """
        if isinstance(images, Source | Mapping) or not isinstance(images, Iterable):
            images = [cast(Source, images)]
        named, found = ((source, f"image {number}") for number, source in enumerate(images, 1)), []
        while xrays := [self.decode(*one) for one in islice(named, FORWARD_BATCH)]:  # no more of them are in memory
            found += self.read_decoded(xrays)
        return found

    def read_decoded(self, xrays: Sequence[OpenedXray], each: Callable[..., Iterable[Any]] = map) -> list[Prediction]:
        """Return a prediction for each decoded X-ray; they go to the device as one batch.

        `each` is called as `map` on the work of the CPU: that of an executor spreads it over threads.
        """
        outputs, distances = self.segment(xrays)
        masks = list(each(self._mask_of, xrays, outputs))
        probabilities: list[float | None] = [None] * len(xrays)
        threshold, limit = None, None
        if (classifier := self.classifier) is not None:
            logits, _ = classifier.forward(list(each(partial(self._classifier_input, classifier), xrays, masks)))
            probabilities = [classifier.predict(one, 0, 0) for one in logits]
            threshold = classifier.settings.threshold
        if self.segmenter is not None and self.segmenter.out_of_distribution is not None:
            limit = self.segmenter.out_of_distribution.limit
        return [
            Prediction(
                xray.name,
                xray.gray.height,
                xray.gray.width,
                xray.spacing_mm,
                mask,
                probability,
                threshold,
                distance,
                limit,
                xray.flags + self.model_flags,
            )
            for xray, mask, probability, distance in zip(xrays, masks, probabilities, distances, strict=True)
        ]

    def decode(self, source: Source, name: str = "image") -> OpenedXray:
        """Return an X-ray as gray; a file's own name takes the place of `name`.

        Raises:
            FileNotFoundError, ValueError: as `read`.
        """
        if isinstance(source, str | Path):
            name = Path(source).name
        gray, spacing_mm, header_flags, chroma, is_synthetic = read_xray(source, name)
        if min(gray.size) < LEAST_SIDE:
            size = f"{gray.width}x{gray.height} pixels"
            raise ValueError(
                f"{name} has {size}, too few to see anything: pass one with sides of {LEAST_SIDE} or more"
            )
        if spacing_mm is None and not is_synthetic:  # phantoms carry names of patients
            spacing_mm = pixel_spacing_mm(Path(name).stem, gray.height, gray.width)
        return OpenedXray(name, gray, spacing_mm, image_flags(gray, chroma) + header_flags)

    def segment(self, xrays: Sequence[OpenedXray]) -> tuple[Sequence[np.ndarray | None], Sequence[float | None]]:
        """Return the segmenter's logits (2, s, s) of each X-ray, and its distance; None without them."""
        nothing: list[None] = [None] * len(xrays)
        if self.segmenter is None:
            return nothing, nothing
        known = self.segmenter.out_of_distribution
        pixels = [self.segmenter.to_pixels(xray.gray, None) for xray in xrays]
        logits, features = self.segmenter.forward(pixels, known is not None)
        distances = nothing if known is None or features is None else known.distances(features).tolist()
        return list(logits), distances

    def _mask_of(self, xray: OpenedXray, logits: np.ndarray | None) -> np.ndarray | None:
        """Return the (H, W) bool lungs of an X-ray on its own pixels."""
        if self.segmenter is None or logits is None:
            return None
        height, width = xray.gray.height, xray.gray.width
        mask: np.ndarray = self.segmenter.predict(logits, height, width)
        return mask

    def _classifier_input(self, classifier: XrayModel, xray: OpenedXray, mask: np.ndarray | None) -> np.ndarray:
        """Return (S, S) uint8 of what the classifier sees: the X-ray, or its lungs."""
        seen = keep_two_lungs(mask) if self.sees_lungs and mask is not None else None  # as in training
        return classifier.to_pixels(xray.gray, seen)

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Keep each forward pass to the thread that calls it within a block, where batches fill the cores."""
        with ExitStack() as stack:
            for model in (self.segmenter, self.classifier):
                if model is not None:
                    stack.enter_context(model.one_thread())
            yield
