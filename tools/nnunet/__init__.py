"""nnU-Net v2 on the cases of a bundle: its data set, its plan, its training, and the scores of its segmentations."""
