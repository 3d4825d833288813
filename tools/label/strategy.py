"""Active learning in MONAI Label: the next scan is the one that tells most about those without a label.

It imports nothing of this repository: what describes scans may be that of an exported bundle.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

__all__ = ["NextScan"]

logger = logging.getLogger(__name__)


class NextScan(Strategy):
    """Choose the next scan by how it differs from those that have a label.

    As with MONAI Label's random strategy, a scan that was handed out comes again only when there is no other, the one
    handed out longest ago first. Until then it counts as labeled: two clients are given scans that differ, and one that
    skips a scan is given another. A scan that cannot be described comes after those that can.

    The first request describes all scans, in seconds each; `python -m tools.next_scan` does so in advance.

    Args:
        load: returns a `ScanDescriber`; called at the first request, so that the server starts without weights, too.
        criterion: see `next_scans`.
    """

    def __init__(self, load: Callable[[], Any], criterion: str = "k_medoids") -> None:
        super().__init__(f"Get the scan that tells most about the unlabeled ones ({criterion})")
        self.load = load
        self.criterion = criterion
        self.describer: Any = None
        self.lock = threading.Lock()

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return the `id` of the next scan and its `distance` from the labeled ones; None when all are labeled."""
        unlabeled = sorted(datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels")))
        if not unlabeled:
            return None
        served = {image: self._served(datastore, image, request["strategy"]) for image in unlabeled}
        paths = {datastore.get_image_uri(image): image for image in sorted(datastore.list_images())}
        waiting = [path for path, image in paths.items() if served.get(image) == 0]
        with self.lock:  # of two requests at once, one describes the scans
            if self.describer is None:
                self.describer = self.load()
            chosen = self.describer.choose([*paths.keys() - waiting], waiting, 1, self.criterion)
        for path, distance in chosen:
            logger.info("%s: %s, at a distance of %.3g", request["strategy"], paths[path], distance)
            return {"id": paths[path], **({"distance": distance} if math.isfinite(distance) else {})}  # JSON has no inf
        return {"id": min(unlabeled, key=lambda image: served[image])}

    def _served(self, datastore: Datastore, image: str, strategy: str) -> int:
        """Return when a scan was handed out, 0 for never."""
        return datastore.get_image_info(image).get("strategy", {}).get(strategy, {}).get("ts", 0)
