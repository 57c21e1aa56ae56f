"""What `accelerate launch -m hub_models.training` starts: `cxm train` in every process."""
