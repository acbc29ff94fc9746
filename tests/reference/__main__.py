"""Write the pages of the reference that are made from the code, into `docs/reference` or a given folder."""

import sys
from pathlib import Path

from tests.reference import write_pages

write_pages(*map(Path, sys.argv[1:]))
