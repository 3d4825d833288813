from .checks import check_grids, check_image, check_label, check_modality, is_ct
from .classes import check_classes, find_classes
from .colors import Color, label_color, label_colors
from .container import check_gzip
from .datalist import Cases, read_cases, read_images, without_labels, write_datalist
from .dataset_file import Item, image_files, list_channels, read_dataset_file, read_names
from .device_cache import DeviceCacheDataset
from .dicom_objects import is_whole_object, write_dicom_seg, write_rtstruct
from .files import hash_file, is_main_process, name_full_disk, write_atomically, write_folder, write_together
from .grid import corner_distance
from .header import Header, check_header
from .image_list import list_images
from .lesion_phantom import LESION_LABELS, make_lesion_phantom, write_lesion_phantoms
from .loaders import CaseLoader, CombinedLoader, VolumeLoader
from .memory import format_size, free_memory
from .outcomes import FAILED, KEPT, REFUSED, LeftOutCase, leave_out, printable, refuse_case, row_of
from .partial_labels import (
    IGNORED,
    MAX_DOUBT,
    class_set,
    exchange_classes,
    find_pseudo_labeled,
    is_known,
    is_partial,
    known_classes,
    leave_open,
    member_mask,
    smallest_type,
    to_doubt,
    with_doubt,
)
from .phantom import PHANTOM_LABELS, make_phantom, write_phantoms
from .preprocessing import fit_preprocessing, intensity_range
from .pseudo_labels import PseudoLabel, read_pseudo_labels, write_pseudo_labels
from .reader import LoadVolume, Paths, case_id, case_name, fingerprint, read_volume
from .record import (
    Record,
    body_channel,
    check_channels,
    check_voxel_size,
    check_weights,
    load_record,
    make_record,
)
from .samplers import DistributedSampler, EpochBatchSampler, split_labeled
from .scan_cache import ScanCache, ScanDataset
from .seg_nrrd import write_seg_nrrd
from .segmentation import (
    LABEL_TABLES,
    Segmentation,
    check_format,
    check_packages,
    label_tables,
    label_xml,
    segmentation_files,
)
from .sides import lopsided_classes, mirrored_classes
from .store import StoredArray, Strided
from .threads import map_threads
from .volumes import join_ranges, label_volumes, note_label, volume_ranges
