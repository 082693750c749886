"""The four tasks. Each module has Draw (views and targets), loss, decode and Metric."""

from types import ModuleType

from training.tasks import depth, normals, parts, pose

MODULES: dict[str, ModuleType] = {"pose": pose, "parts": parts, "depth": depth, "normals": normals}
