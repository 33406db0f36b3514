"""``python -m cytosynth.cli`` is the command ``cytosynth``."""

import sys

from cytosynth.cli import main

sys.exit(main())
