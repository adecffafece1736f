"""``python -m loop_pool``: the command ``loop-pool``."""

import sys

from ._cli import main

sys.exit(main())
