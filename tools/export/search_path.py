"""Search path of Python for an exported bundle, in whose `scripts` this file lies: modules come from there.

Those of another bundle, whose package has the same name, are forgotten.
"""

from __future__ import annotations

import sys
from pathlib import Path

folder = Path(__file__).resolve().parent
package = sys.modules.get(folder.name)
if package is not None and folder not in [Path(path).resolve() for path in package.__path__]:
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]
    package = None
if package is None:
    sys.path.insert(0, str(folder.parent))
