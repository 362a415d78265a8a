"""A fake, for tests alone, of what torchvision's extension defines, which is built for CUDA and not loaded elsewhere.

torchvision's Python code is then imported, and all of its networks run that use none of these operators: the real ones
are missed by detectors alone. Loaded as a plug-in of pytest, before anything imports torchvision.
"""

import torch

__all__ = ["operators"]

operators = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
