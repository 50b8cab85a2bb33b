"""The one kind of error a user is meant to read."""


class UserError(Exception):
    """Something the user can put right: one or two sentences with the rule, what came and what to do."""
