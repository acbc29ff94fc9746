"""`python -m wsi_mitosis` is `wsi-mitosis`."""

from wsi_mitosis.cli import main

main(prog_name="wsi-mitosis")
