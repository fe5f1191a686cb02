"""What every check here raises."""


class Violation(Exception):
    """A promise was broken."""
