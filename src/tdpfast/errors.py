"""The exceptions of tdpfast."""


class TdpfastError(Exception):
    """Everything tdpfast raises on purpose."""


class UsageError(TdpfastError, ValueError):
    """An argument, file or token does not fit."""
