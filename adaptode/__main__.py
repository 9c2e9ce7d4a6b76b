"""`python -m adaptode` is `adaptode`."""

import sys

from .cli import main

sys.exit(main())
