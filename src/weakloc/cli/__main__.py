"""`python -m weakloc.cli`, for torchrun and for child processes."""

from weakloc.cli import main

main()
