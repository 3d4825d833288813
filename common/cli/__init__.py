from .command_line import check_bundle_root, check_command_line
from .errors import end_process_at_exit, explain_errors
from .options import RANDOM, check_choice, check_flags, check_options, check_whole_numbers, is_scratch
