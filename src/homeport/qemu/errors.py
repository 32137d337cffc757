"""What can go wrong when talking to a QEMU process or to the agent in its guest."""

from homeport.domain.errors import HomeportError


class QmpGone(HomeportError):
    """Nobody answers at the QMP socket: refused, closed, or the process died while a command was under way."""

    code = "qemu.gone"
    remedy = "The machine's process ended or its QMP socket was removed. See whether the machine still runs."


class QmpSilent(QmpGone):
    """The process is there but did not answer in time: another client holds its socket, or it hangs. A command that
    timed out may or may not have been carried out."""

    code = "qemu.silent"
    remedy = "Another program may hold the machine's QMP socket (it takes one client at a time), or the process hangs."


class QmpError(HomeportError):
    """QEMU refused a command. ``error_class`` and ``desc`` are QEMU's own words; the command was not carried out."""

    code = "qemu.refused"
    remedy = "Homeport did not expect this state of the QEMU process; the command is in the details."

    def __init__(self, error_class: str, desc: str, command: str = "") -> None:
        super().__init__(f"{command}: {desc}" if command else desc, error_class=error_class, command=command)
        self.error_class = error_class
        self.desc = desc
        self.command = command


class FilterMissing(HomeportError):
    """A running QEMU lacks the filter nodes that point-in-time views are switched in under."""

    code = "qemu.filter-missing"
    remedy = "Start the machine by Homeport, or with a raw filter node over each disk (docs: block graph)."


class AgentError(HomeportError):
    """The guest agent refused a command. ``error_class`` and ``desc`` are the agent's own words."""

    code = "qemu.agent-refused"
    remedy = "See the guest agent's log inside the machine."

    def __init__(self, error_class: str, desc: str, command: str = "") -> None:
        super().__init__(f"{command}: {desc}" if command else desc, error_class=error_class, command=command)
        self.error_class = error_class
        self.desc = desc
        self.command = command


class AgentSilent(HomeportError):
    """The guest agent did not answer in time, or there is nothing at its socket."""

    code = "qemu.agent-silent"
    remedy = "Check that the guest agent is installed and runs in the machine."
