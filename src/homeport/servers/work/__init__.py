"""The work of a site's servers: a class per role, each a set of kinds, and how they come together."""

from homeport.servers.work.errors import NotReplicating, StaleWork
from homeport.servers.work.site_work import SiteWork

__all__ = ["NotReplicating", "SiteWork", "StaleWork"]
