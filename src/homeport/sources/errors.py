"""What can go wrong at a source of changes."""

from homeport.domain.errors import HomeportError


class SourceError(HomeportError):
    code = "source.failed"
    remedy = "Replication tries again by itself; if this stays, look at the machine's console and at its site."


class SourceGone(SourceError):
    """The machine's process can't be reached: it was stopped or killed."""

    code = "source.gone"
    remedy = "Start the machine again. What it wrote before it died is found by comparing digests."


class ViewBroken(SourceError):
    """The point-in-time view is gone, mostly because its scratch space filled up; production was not touched."""

    code = "source.view-broken"
    remedy = "Nothing is lost: the next point takes these changes again. Give the scratch folder more space."


class FreezeFailed(SourceError):
    """The guest agent did not freeze the file systems in time; they are thawed."""

    code = "78144"
    remedy = "Check that the guest agent runs in the machine. Crash-consistent points go on."
