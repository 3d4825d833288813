from .dataset_file import Item, image_files, list_channels, read_dataset_file
