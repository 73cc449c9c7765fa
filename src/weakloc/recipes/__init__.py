"""The papers' experiments as data: what varies, what is fixed, what was published."""
