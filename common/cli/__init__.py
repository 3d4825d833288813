from .check import CONFIG, check_options, running_config
from .errors import (
    BundleError,
    DivergenceError,
    InputError,
    KindError,
    MissingFileError,
    MissingPackageError,
    collect_errors,
    concerns_run,
    end_process_at_exit,
    explain_errors,
    find_cause,
    find_sentence,
    is_collecting,
    is_device_full,
    keep_going,
    root_cause,
    tell,
)
from .options import (
    RANDOM,
    SHARED_OPTIONS,
    Option,
    check_choice,
    check_each,
    check_flags,
    check_values_are_given,
    check_whole_numbers,
    has_weights,
    is_scratch,
)
from .page import count_text, make_code, make_page, make_section, make_table
from .shown import offer_option, read_option
from .signals import Interruption, forget_signals, note_signals, noted_signal
from .versions import package_versions
