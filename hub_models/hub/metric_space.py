"""Pack a metric of the `evaluate` library as a Space, from which `evaluate.load("OWNER/NAME")` takes it."""

import re
from importlib.metadata import version
from pathlib import Path
from string import Template

from hub_models.files import check_output, new_folder
from hub_models.hub.templates import CODE_URL
from hub_models.metrics import evaluate_module

METRIC_MODULE = "weighted.py"  # by which a Space of these metrics is known: `evaluate` needs it beside the script
METRIC_REQUIREMENTS = ("datasets", "evaluate", "numpy")  # Gradio is the Space's own
OURS = re.compile(r"^from hub_models\.metrics\.(\w+) import", re.M)
METRIC_APP = Template('''"""A form for the metric $name; see README.md."""

import json
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr

metric = evaluate.load(str(Path(__file__).with_name("$name.py")))


def compute(predictions: str, references: str) -> dict[str, float | None]:
    """Return the metrics of two JSON lists, None where undefined; raise gr.Error for what the metric refuses."""
    try:
        found = metric.compute(predictions=json.loads(predictions), references=json.loads(references))
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error
    return {name: None if value != value else value for name, value in found.items()}


gr.Interface(
    compute,
    [gr.Textbox(label="predictions, as JSON"), gr.Textbox(label="references, as JSON")],
    gr.JSON(label="metrics"),
    examples=[$example],
    cache_examples=False,
    title="Metric: $name",
    description=metric.description,
    article=metric.inputs_description,
    flagging_mode="never",
).launch()
''')
METRIC_CARD = Template("""---
title: $name
sdk: gradio
sdk_version: $gradio
app_file: app.py
license: apache-2.0
tags:
- evaluate
- metric
- medical-imaging
description: "$description"
---

# $name

$description

```python
import evaluate

metric = evaluate.load("$repo_id")
print(metric.compute(predictions=$predictions, references=$references))
```

It runs this Space's code on your machine, and needs `datasets`, `evaluate` and `numpy`$more.
The same module is in [chest-xray-masks]($code_url), by the path
that `hub_models.metrics.evaluate_module("$metric")` returns.

```text
$inputs
```

## Citation

```bibtex
$citation
```
""")
# by metric: predictions and references of an example, and what its options need beside the requirements
METRIC_EXAMPLES = {
    "lung_overlap": ("[[[1, 1], [0, 0]]]", "[[[1, 0], [0, 0]]]", "; with `spacing`, `monai` too"),
    "screening": ("[0.9, 0.2, 0.6]", "[1, 0, 1]", ""),
}


def pack_metric(folder: str | Path, metric: str, repo_id: str) -> Path:
    """Write the Space `repo_id` of a metric, lung_overlap or screening, to `folder`, whole or not at all.

    The script has the repository's name, by which `evaluate` looks for it, and needs no install of this project.

    Raises:
        FileExistsError: something is there.
        ValueError: there is no such metric.
    """
    import evaluate  # takes seconds

    folder, name = Path(folder), repo_id.rpartition("/")[2]
    source = Path(evaluate_module(metric)) / f"{metric}.py"
    info = evaluate.load(str(source))
    predictions, references, more = METRIC_EXAMPLES[metric]
    texts = {"name": name, "metric": metric, "repo_id": repo_id, "gradio": version("gradio")}
    texts |= {"code_url": CODE_URL}
    texts |= {"predictions": predictions, "references": references, "more": more}
    texts |= {"example": repr([predictions, references]), "description": info.description}
    texts |= {"inputs": info.inputs_description.strip(), "citation": info.citation.strip()}
    check_output(folder, "packed Space")
    with new_folder(folder) as made:
        scripts = _scripts(source)
        (made / f"{name}.py").write_text(scripts.pop(source.stem))
        for stem, text in scripts.items():
            (made / f"{stem}.py").write_text(text)
        pinned = [f"{one}=={version(one)}" for one in METRIC_REQUIREMENTS]
        (made / "requirements.txt").write_text("\n".join(pinned) + "\n")
        (made / "app.py").write_text(METRIC_APP.substitute(texts))
        (made / "README.md").write_text(METRIC_CARD.substitute(texts))
    return folder


def _scripts(source: Path) -> dict[str, str]:
    """Return the text of a module, and of those of this project that it needs, by name, importing each other there."""
    texts, waiting = {}, [source]
    while waiting:
        path = waiting.pop()
        texts[path.stem] = path.read_text()
        needed = set(OURS.findall(texts[path.stem])) - texts.keys()
        waiting += [source.parents[1] / f"{name}.py" for name in sorted(needed)]
    texts = {name: OURS.sub(r"from .\1 import", text) for name, text in texts.items()}
    named = [f"from .{name} import __name__ as _{name}\n" for name in texts if name != source.stem]
    texts[source.stem] += "".join(["\n# `evaluate` fetches the files that this one names\n", *named])
    return texts
