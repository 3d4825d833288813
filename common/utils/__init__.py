from .bundle_root import check_bundle_root
from .choice import check_choice
from .command_line import check_command_line
from .distributed import join_processes, leave_processes, process_device
from .errors import explain_errors
from .files import is_main_process, write_atomically, write_folder
from .flags import check_flags
from .moving_average import MovingAverage
from .options import check_options
from .whole_numbers import check_whole_numbers
