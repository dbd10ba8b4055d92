"""How a command fails: with one message that says what to do, and an exit status that is not 0."""


class CommandError(Exception):
    """Ends the command; the message goes to standard error."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
