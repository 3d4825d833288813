from .check import check_options, running_config
from .errors import (
    BundleError,
    DivergenceError,
    InputError,
    KindError,
    MissingFileError,
    MissingPackageError,
    collect_errors,
    end_process_at_exit,
    explain_errors,
    find_sentence,
    keep_going,
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
