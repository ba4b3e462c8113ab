"""The exceptions of tdpfast."""


class TdpfastError(Exception):
    """Base of every exception that tdpfast raises on purpose."""


def _short(text: str) -> str:
    """What somebody handed over may be of any length; a message is not."""
    return text if len(text) <= 500 else f"{text[:300]} ... {text[-100:]}"


class UsageError(TdpfastError, ValueError):
    """The caller asked for something that cannot be done.

    Attributes (all str): ``what`` is wrong, ``why``, and ``fix``, what to do about it.
    """

    def __init__(self, what: str, why: str = "", fix: str = ""):
        what, why = _short(what), _short(why)
        super().__init__(what, why, fix)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        text = f"{self.what} ({self.why})" if self.why else self.what
        return f"{text}; try {self.fix}" if self.fix else text


class VmEnded(TdpfastError, RuntimeError):
    """The VM cannot go on: a kernel BUG() fired, an operation ran into a livelock, or it was destroyed.

    Attributes: ``why``, "BUG", "LIVELOCK" or "destroyed"; ``function`` and ``id`` of the BUG(), else None.
    """

    def __init__(self, why: str, function: str | None = None, id: str | None = None):
        super().__init__(why, function, id)
        self.why, self.function, self.id = why, function, id

    def __str__(self) -> str:
        if self.why == "destroyed":
            return "the VM was destroyed; make a new one"
        where = f" in {self.function} ({self.id})" if self.function else ""
        return f"the VM ended with {self.why}{where}; make a new one"
