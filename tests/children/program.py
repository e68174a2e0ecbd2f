"""The command line, which says on standard error that it begins."""

import sys

from anchorbench.__main__ import main

sys.argv[0] = "anchorbench"
sys.stderr.write(".")
sys.stderr.flush()
main()
