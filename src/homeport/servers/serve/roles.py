"""Which server belongs to which role."""

from __future__ import annotations

from homeport.domain.servers import Role
from homeport.servers.serve.process import Server
from homeport.servers.serve.settings import Config


def make_server(config: Config) -> Server:
    """Not started yet. Raises IdentityMissing, IdentityDamaged, WrongRole."""
    if config.role is Role.VAULT:
        from homeport.servers.serve.vault_server import VaultServer

        return VaultServer(config)
    from homeport.servers.serve import site_server

    if config.role is Role.MOBILITY_SERVICE:
        from homeport.servers.serve.mobility_server import MobilityServer

        return MobilityServer(config)
    servers = (site_server.ConfigurationServer, site_server.ProcessServer, site_server.MasterTarget)
    return next(server for server in servers if server.role is config.role)(config)
