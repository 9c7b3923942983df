"""The point-in-time kernel: windows and newest rows over sorted arrays."""

from featurestore.kernel.point_in_time import Answer, Rules, evaluate
from featurestore.kernel.rows import EntityRows, InputColumn

__all__ = ["Answer", "EntityRows", "InputColumn", "Rules", "evaluate"]
