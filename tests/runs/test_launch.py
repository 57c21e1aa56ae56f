from hub_models.runs.launch import launch_of, make_accelerator


def test_accelerator_is_on_what_there_is() -> None:
    accelerator = make_accelerator(gradient_accumulation_steps=2)
    assert accelerator.device.type == "cpu" and accelerator.gradient_accumulation_steps == 2
    assert launch_of(accelerator) == {"processes": 1, "mixed_precision": "no"}
