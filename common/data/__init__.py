from .augmentation import RandAffineGrid
from .checks import Header, check_grids, check_gzip, check_header, check_hounsfield, check_image, check_label
from .classes import Classes, load_classes, save_classes
from .datalist import Cases, case_id, read_cases, read_images, write_datalist
from .field_of_view import FieldOfView, Place, fit_field_of_view, load_field_of_view
from .lesion_phantom import LESION_LABELS, make_lesion_phantom, write_lesion_phantoms
from .list_images import list_images
from .organ_preprocessing import (
    OrganPreprocessing,
    load_organ_preprocessing,
    make_organ_preprocessing,
)
from .patch_loader import PatchLoader
from .patches import PatchBatchSampler, PatchDataset, PatchRequest
from .phantom import PHANTOM_LABELS, make_phantom, write_phantoms
from .preprocessing import FittedPreprocessing, fit_preprocessing, load_preprocessing
from .resident_volumes import PairLoader, ResidentVolumes, VolumeLoader
from .sampling import EpochBatchSampler
from .share import ShareSampler
from .slices import SliceBatchSampler, SliceDataset, SliceRequest, slice_axis
from .streams import ParallelLoader
