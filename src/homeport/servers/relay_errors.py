"""Why a configuration server can't hand work on to the servers of its site."""

from __future__ import annotations

from homeport.domain.errors import HomeportError


class NoServer(HomeportError):
    code = "site.no-server"
    remedy = "Start one and join it to this site's configuration server: `homeport serve --help`."


class ServerAway(HomeportError):
    code = "site.server-away"
    remedy = "Start it again, or mend the network to it, then restart the job; `homeport site show SITE` lists servers."


class ServerRemoved(HomeportError):
    code = "site.server-removed"
    remedy = "Restart the job: another server of the site does it. `homeport site show SITE` lists servers."


class ProcessServerCritical(HomeportError):
    code = "process-server.critical"
    remedy = "Give it what it lacks, or name another one: `homeport server show NAME` says how each is."


class GroupTogether(HomeportError):
    code = "site.group-together"
    remedy = "Only an item that is in no group can be given another process server alone."


class SwitchFailed(HomeportError):
    """``details``: ``process_server``: that the item has now; ``reason``: code of what went wrong."""

    code = "process-server.switch-failed"
    remedy = "Switch it to another one, or to this one when it is well: `homeport site show SITE` lists servers."


class NotAsked(HomeportError):
    code = "work.unknown"
    remedy = "Nobody waits for this work any more; drop its result."
