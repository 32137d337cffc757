"""What can go wrong at a site."""

from homeport.domain.errors import HomeportError


class SiteError(HomeportError):
    code = "site.failed"


class MachineNotFound(SiteError):
    code = "site.machine-not-found"
    remedy = "See `homeport machine list SITE` for the machines that this site discovers."


class MachineFenced(SiteError):
    """The machine runs at the other site; starting it here too would split its history."""

    code = "site.machine-fenced"
    remedy = "Bring it home with `homeport failback`, or end its protection first."


class MachineWouldNotStart(SiteError):
    code = "78093"
    remedy = "Read the machine's log in its folder, mend the cause, then restart the job."
