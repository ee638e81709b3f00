"""``python -m jloss``: the command, where scripts are not on the path."""

import sys

from jloss.cli import main

sys.exit(main())
