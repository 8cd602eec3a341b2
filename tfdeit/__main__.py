"""`python -m tfdeit`: the command line."""

import sys

from tfdeit.cli.main import main

sys.exit(main())
