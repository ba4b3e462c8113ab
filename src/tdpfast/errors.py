"""The exceptions of tdpfast."""


class TdpfastError(Exception):
    """Base of every exception that tdpfast raises on purpose."""


class UsageError(TdpfastError, ValueError):
    """The caller asked for something that cannot be done.

    Attributes (all str): ``what`` is wrong, ``why``, and ``fix``, what to do about it.
    """

    def __init__(self, what: str, why: str = "", fix: str = ""):
        super().__init__(what, why, fix)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        text = f"{self.what} ({self.why})" if self.why else self.what
        return f"{text}; try {self.fix}" if self.fix else text
