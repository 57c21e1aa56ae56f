"""Read X-rays with trained models: one, or a job of many that can be stopped and resumed."""

from typing import TYPE_CHECKING

from hub_models.lazy import loader

if TYPE_CHECKING:
    from hub_models.predict.reader import ChestXrayReader as ChestXrayReader
    from hub_models.predict.reader import Prediction as Prediction

__getattr__ = loader(__name__, dict.fromkeys(("ChestXrayReader", "Prediction"), "hub_models.predict.reader"))
