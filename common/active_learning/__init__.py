from .choice import CRITERIA, next_scans
from .scan_describer import ScanDescriber, load_describer
from .scan_description import describe_scan
