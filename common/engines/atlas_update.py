"""One iteration of the training of an atlas.

Source: M. Blendowski, H. Nickisch, M. Heinrich, *How to learn from unlabeled volume data: self-supervised 3D context
feature learning*, MICCAI 2019 (https://github.com/multimodallearning/miccai19_self_supervision)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.data import decollate_batch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from common.atlas import PlanarAtlas

__all__ = ["AtlasUpdate"]


class AtlasUpdate:
    """Add labeled volumes to an atlas; nothing is optimized.

    It is the `iteration_update` of MONAI's trainer, whose network is a `PlanarAtlas`. Batches have `image` and `label`
    of shape `(B, 1, H, W, D)`; a volume is known by its file, and replaces what the atlas has of that. It leaves the
    number of volumes and of voxels of the atlas among the engine's metrics. After the last iteration, the atlas must
    have voxels of every class.
    """

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """Return the output of the iteration: the batch."""
        atlas: PlanarAtlas = getattr(engine.network, "module", engine.network)
        for case in decollate_batch(dict(batchdata)):
            image, label = (case[key].to(engine.state.device) for key in ("image", "label"))
            atlas.add(image, label, str(image.meta["filename_or_obj"]))
        engine.state.metrics.update(atlas_volumes=len(atlas.volume_ids), atlas_voxels=len(atlas.labels))
        if engine.state.iteration == engine.state.max_epochs * engine.state.epoch_length:
            atlas.check_classes()
        engine.state.output = {"image": batchdata["image"], "label": batchdata["label"]}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
