"""Commands killed at random moments, gone on with, and compared with what nobody disturbed.

`python -m tests.kills --help`
"""
