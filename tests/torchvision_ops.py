"""Import torchvision's wheel beside the CPU build of torch, for which none of its compiled operators is there.

The schemas of two operators, defined before the import, are enough for its transforms: an image processor of
`transformers` then runs on its torchvision backend. Put the wheel's folder on PYTHONPATH, and import this first.
"""

import torch

OPERATORS = torch.library.Library("torchvision", "DEF")  # lives as long as the module
OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
