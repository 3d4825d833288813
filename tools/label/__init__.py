"""What MONAI Label is given beside a bundle; only `strategy` imports `monailabel`."""
