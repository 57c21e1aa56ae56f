"""The classifier that pictures of saliency are made with; apart from the stream, since it needs torch."""

import copy
from dataclasses import replace
from threading import Lock

import numpy as np
from PIL import Image

from hub_models.imaging.masks import keep_two_lungs
from hub_models.models.saliency import METHODS, saliency_of_gray
from hub_models.models.trained_model import TrainedModel
from hub_models.predict.loading import XrayModel


class SaliencyModel:
    """A copy of a classifier for saliency, used by one thread at a time: computing saliency changes the model."""

    def __init__(self, classifier: XrayModel) -> None:
        """Copy the model.

        Raises:
            ValueError: there is no saliency of its family.
            TypeError: an exported model, which has no gradient.
        """
        if not isinstance(classifier, TrainedModel):
            raise TypeError("no saliency of an exported model: pass the run folder as classifier")
        self.trained, self.lock = replace(classifier, model=copy.deepcopy(classifier.model)), Lock()
        if (family := classifier.model.config.model_type) not in METHODS:
            raise ValueError(f"no saliency of a {family} model: leave it out, or pass one of {', '.join(METHODS)}")

    def __call__(self, gray: Image.Image, mask: np.ndarray | None) -> np.ndarray:
        """Return `saliency_of_gray` of the model, (H, W) float32."""
        with self.lock:
            return saliency_of_gray(self.trained, gray, None if mask is None else keep_two_lungs(mask))
