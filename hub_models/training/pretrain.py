"""Pre-train the encoder of a ViT without labels, by masked auto-encoding, into a folder to fine-tune from."""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from transformers import PreTrainedModel

from hub_models.console import counted
from hub_models.dataset.sources import DataRequest
from hub_models.files import check_output, held, is_hidden, write_bytes, write_json
from hub_models.hub_client.model_files import read_json
from hub_models.models.masked_auto_encoder import (
    RECONSTRUCTION,
    encoder_of,
    gray_processor,
    masked_auto_encoder,
)
from hub_models.runs.config import resolved
from hub_models.runs.data import request_of
from hub_models.runs.launch import circumstances
from hub_models.runs.leaks import LEARNED
from hub_models.runs.notes import CARD_NAME, finished, read_notes
from hub_models.runs.pretrain_config import PretrainConfig
from hub_models.runs.pretrain_data import PretrainSource, describe_sources, load_sources, prepare_sources
from hub_models.runs.run_folder import RESULTS_NAME
from hub_models.training.checkpoints import said_what_stands
from hub_models.training.folder import FOLD_FOLDERS, check_data, check_folder, write_files
from hub_models.training.loop import Run
from hub_models.training.train import fit, training_accelerator

logger = logging.getLogger(__name__)

CARD = """# {name}

An encoder for chest X-rays, pre-trained without labels. It is not a reader: it gives no masks and no probabilities.

A ViT (`{model}`, {size} px) was trained as a masked auto-encoder: {percent:g} % of the patches of an X-ray were
hidden, and reconstructed from the others ({epochs}; epoch {kept} was kept). Of the variance within hidden patches,
{r2:.1%} is reconstructed in the {validation} X-rays of validation.

| source | learned from | for validation |
|---|---|---|
{sources}

Protocol: {protocol}. X-rays of a test split were not learned from. `data.json` lists the X-rays, and a training that
starts from here refuses to test on their patients.

```
cxm train --data DATA --output RUN --task tb_classification --model {name} --image_size {size} --layer_decay 0.7
```
"""


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Pre-train the encoder of a config into the folder `config.output_dir`, and return its results.

    The folder holds the encoder as a plain ViT without a head (`model.safetensors`, `config.json`), the image
    processor, `pretrain_config.json`, `data.json` (the X-rays of each split), `results.json` with the loss of each
    epoch, and a card (`README.md`). The same call resumes as `train.train` does. Protocol folds without a fold makes a
    folder `fold-K` for each, from which the training of all folds takes its own; their results are a list, `folds`.

    Raises:
        ValueError, OSError, KeyboardInterrupt: as `train.train`, and as `pretrain_data.load_sources`.
    """
    for place in (*config.sources, *config.whole):
        DataRequest(place).check()
    if config.protocol != "folds" or config.fold is not None:
        return _pretrain(config)
    folder = Path(config.output_dir)
    check_output(folder, "encoder of all folds", lambda name: is_hidden(name) or name.split("/")[0] in FOLD_FOLDERS)
    places = [str(folder / name) for name in FOLD_FOLDERS]
    folds = [dataclasses.replace(config, fold=fold, output_dir=place) for fold, place in enumerate(places)]
    return {"folds": [_pretrain(one) for one in folds]}


def _pretrain(config: PretrainConfig) -> dict[str, Any]:
    folder, accelerator = Path(config.output_dir), training_accelerator(config)
    check_folder(config, folder, accelerator)
    with said_what_stands(folder), held(folder, accelerator.is_main_process):
        set_seed(config.seed)
        size = resolved(config.image_size, "image_size")
        model = masked_auto_encoder(resolved(config.model, "model"), size, config.mask_ratio)
        sources = load_sources(config, accelerator)
        data = describe_sources(sources)
        check_data(config, folder, data)
        if (folder / RESULTS_NAME).exists():
            logger.info("%s is finished: to train it again, delete it or pass another output folder", folder)
            return read_json(folder / RESULTS_NAME)
        splits = prepare_sources(config, sources, model.vit.embeddings.patch_embeddings.num_patches, accelerator)
        data["pixels"] |= {name: sorted(set(splits[name].arrays.prepared["digest"])) for name in LEARNED}
        run = Run(config, RECONSTRUCTION, gray_processor(size), accelerator, splits, None)
        training = fit(run, model, folder, data, _write_encoder)
        results = _results(run, sources, training)
        if accelerator.is_main_process:
            write_bytes(_card(folder, results).encode(), folder / CARD_NAME)
            write_json(results, folder / RESULTS_NAME)
            shutil.rmtree(run.checkpoints, ignore_errors=True)
        accelerator.wait_for_everyone()
        logger.info("wrote %s (epoch %d kept): %s", folder, training["kept_epoch"], f"cxm train --model {folder}")
        return results


def _write_encoder(run: Run, model: PreTrainedModel, folder: Path) -> None:
    write_files(folder, [encoder_of(model).save_pretrained, run.image_processor.save_pretrained], run.accelerator)


def _results(run: Run, sources: list[PretrainSource], training: dict[str, Any]) -> dict[str, Any]:
    config, metric = run.config, run.task.main_metric
    for epoch in training["epochs"]:
        epoch["validation_loss"] = 1 - epoch[f"validation_{metric}"]
    counts = [
        {"source": request_of(one.config).name} | {split: len(one.rows[split]) for split in LEARNED} for one in sources
    ]
    results: dict[str, Any] = {"task": config.purpose, "protocol": config.protocol, "fold": config.fold}
    results |= {"main_metric": metric, "splits": {name: len(one.rows) for name, one in run.splits.items()}}
    return results | {"sources": counts, "training": training} | circumstances(config, run.accelerator)


def _card(folder: Path, results: dict[str, Any]) -> str:
    """Return the text of README.md; it names sources and no path of this machine but the architecture's folder."""
    config, training = results["config"], results["training"]
    fold = "" if results["fold"] is None else f", fold {results['fold']}"
    kept = training["epochs"][training["kept_epoch"] - 1]
    text = CARD.format(
        name=folder.resolve().name,
        model=Path(config["model"]).name if Path(config["model"]).is_dir() else config["model"],
        size=config["image_size"],
        percent=100 * config["mask_ratio"],
        epochs=counted(len(training["epochs"]), "epoch"),
        kept=training["kept_epoch"],
        r2=kept["validation_r2"],
        validation=results["splits"]["validation"],
        sources="\n".join(f"| {one['source']} | {one['train']} | {one['validation']} |" for one in results["sources"]),
        protocol=results["protocol"] + fold,
    )
    return finished(text, read_notes(folder))
