"""Every error the platform raises on purpose. Each says what happened, what was got and expected, and how to mend it."""


class MlopsError(Exception):
    """The parent of all errors below."""


class SpecError(MlopsError):
    """A ``defs.yaml`` says something unknown or contradictory."""


class IllegalChange(MlopsError):
    """The policy does not allow this change in its present state."""


class StalePolicy(MlopsError):
    """Somebody else changed the policy first: read it again and decide again."""


class NotFound(MlopsError):
    """An object, release, policy or deployment that was asked for does not exist."""


class AlreadyExists(MlopsError):
    """An immutable object exists already, with another content."""


class DigestMismatch(MlopsError):
    """The bytes are not those that were registered."""


class BadData(MlopsError):
    """Data that cannot be used; the message names the file or column, and the rule it breaks."""


class TrainingFailed(MlopsError):
    """The model's own training code raised or returned something unusable."""


class Unavailable(MlopsError):
    """A system behind a port does not answer. The action may be run again when it is back."""


class NotReady(MlopsError):
    """A release did not become ready in the time it was given."""
