from .checks import Header, check_grids, check_gzip, check_header, check_hounsfield, check_image, check_label
from .datalist import Cases, case_id, read_cases, read_images, without_labels, write_datalist
from .device_cache import DeviceCacheDataset
from .files import is_main_process, write_atomically, write_folder
from .lesion_phantom import LESION_LABELS, make_lesion_phantom, write_lesion_phantoms
from .list_images import list_images
from .loaders import CaseLoader, CombinedLoader, VolumeLoader
from .phantom import PHANTOM_LABELS, make_phantom, write_phantoms
from .preprocessing import fit_preprocessing
from .record import Record, load_record, make_record
from .samplers import DistributedSampler, EpochBatchSampler
