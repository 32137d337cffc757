"""``python -m homeport.cli``."""

import sys

from homeport.cli import main

sys.exit(main())
