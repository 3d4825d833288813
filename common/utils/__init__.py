from .errors import explain_errors
from .files import is_main_process, write_atomically
