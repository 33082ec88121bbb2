"""One folder per method: ``__init__`` declares it without torch, ``model`` computes."""

import getpass
import os

try:
    getpass.getuser()
except (ImportError, KeyError, OSError):
    # In a container, a user may have no name; MONAI asks for it when it is imported.
    os.environ["USER"] = "nobody"
