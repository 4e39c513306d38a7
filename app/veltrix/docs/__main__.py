"""`python -m veltrix.docs` writes the pages that are made of the code; `--check` compares them."""

import sys

from veltrix.docs.pages import main

sys.exit(main(sys.argv[1:]))
