"""One file per component; program.py passes outputs between them."""
