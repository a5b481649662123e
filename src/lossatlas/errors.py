"""The one exception that carries a message meant for the user."""


class UserError(Exception):
    """Something the user can mend; its text is one line that says what to do. The CLI prints it and exits with 2."""
