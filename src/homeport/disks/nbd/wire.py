"""The NBD protocol's numbers and structs.

Source: the protocol document of the NBD project (doc/proto.md), fixed newstyle negotiation with structured replies.
All integers are big-endian. Sizes in bytes.
"""

from __future__ import annotations

import errno as codes
from struct import Struct

# Negotiation: greeting, options and their replies.
GREETING_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9

GREETING = Struct(">QQH")
"""NBDMAGIC, IHAVEOPT, handshake flags."""
CLIENT_FLAGS = Struct(">I")
OPTION = Struct(">QII")
"""IHAVEOPT, option, length of its data."""
OPTION_REPLY = Struct(">QIII")
"""magic, option, reply type, length of its data."""
INFO_EXPORT_DATA = Struct(">HQH")
"""NBD_INFO_EXPORT, size, transmission flags."""
INFO_BLOCK_SIZE_DATA = Struct(">HIII")
"""NBD_INFO_BLOCK_SIZE, minimum, preferred, maximum."""
EXPORT_NAME_REPLY = Struct(">QH")
"""size, transmission flags: the bare answer to NBD_OPT_EXPORT_NAME."""
EXPORT_NAME_PADDING = 124
U32 = Struct(">I")
U16 = Struct(">H")

HANDSHAKE_FIXED_NEWSTYLE = 1 << 0
HANDSHAKE_NO_ZEROES = 1 << 1

OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10

REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_IS_ERROR = 1 << 31
REP_ERR_UNSUP = REP_IS_ERROR | 1
REP_ERR_POLICY = REP_IS_ERROR | 2
REP_ERR_INVALID = REP_IS_ERROR | 3
REP_ERR_UNKNOWN = REP_IS_ERROR | 6
REP_ERR_TOO_BIG = REP_IS_ERROR | 9
OPTION_ERRORS = {
    REP_ERR_UNSUP: "unsupported",
    REP_ERR_POLICY: "forbidden by policy",
    REP_ERR_INVALID: "invalid request",
    REP_IS_ERROR | 4: "unsupported on this platform",
    REP_IS_ERROR | 5: "TLS is required",
    REP_ERR_UNKNOWN: "unknown export",
    REP_IS_ERROR | 7: "the server shuts down",
    REP_IS_ERROR | 8: "the block size must be asked for",
    REP_ERR_TOO_BIG: "the request is too big",
}

INFO_EXPORT = 0
INFO_BLOCK_SIZE = 3

MAX_STRING = 4096
"""Longest export name or query that the protocol allows."""

# Transmission flags.
FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_FUA = 1 << 3
FLAG_SEND_TRIM = 1 << 5
FLAG_SEND_WRITE_ZEROES = 1 << 6
FLAG_SEND_DF = 1 << 7
FLAG_CAN_MULTI_CONN = 1 << 8

# Transmission: requests and replies.
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF

REQUEST = Struct(">IHHQQI")
"""magic, command flags, command, cookie, offset, length."""
SIMPLE_REPLY = Struct(">IIQ")
"""magic, error, cookie."""
CHUNK = Struct(">IHHQI")
"""magic, chunk flags, chunk type, cookie, length of what follows."""
CHUNK_OFFSET = Struct(">Q")
CHUNK_OF_DATA = Struct(">IHHQIQ")
"""CHUNK and CHUNK_OFFSET: what stands before content."""
CHUNK_HOLE = Struct(">QI")
"""offset, length of a run of zeroes."""
CHUNK_ERROR = Struct(">IH")
"""error, length of the message that follows."""
DESCRIPTOR = Struct(">II")
"""length, status flags."""

CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7
COMMANDS = {
    CMD_READ: "read",
    CMD_WRITE: "write",
    CMD_DISC: "disconnect",
    CMD_FLUSH: "flush",
    CMD_TRIM: "trim",
    CMD_WRITE_ZEROES: "zero",
    CMD_BLOCK_STATUS: "block status",
}

CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3

CHUNK_FLAG_DONE = 1 << 0
CHUNK_NONE = 0
CHUNK_OFFSET_DATA = 1
CHUNK_OFFSET_HOLE = 2
CHUNK_BLOCK_STATUS = 5
CHUNK_IS_ERROR = 1 << 15
CHUNK_ERROR_PLAIN = CHUNK_IS_ERROR | 1
CHUNK_ERROR_OFFSET = CHUNK_IS_ERROR | 2

MAX_PAYLOAD = 32 << 20
"""Largest read or write that every server takes unless it says otherwise."""

ERRORS = {
    1: codes.EPERM,
    5: codes.EIO,
    12: codes.ENOMEM,
    22: codes.EINVAL,
    28: codes.ENOSPC,
    75: codes.EOVERFLOW,
    95: codes.ENOTSUP,
    108: codes.ESHUTDOWN,
}
"""The protocol's error numbers and the system's."""
ERROR_NUMBERS = {system: wire for wire, system in ERRORS.items()}

# Metadata contexts.
BASE_ALLOCATION = "base:allocation"
STATE_HOLE = 1 << 0
STATE_ZERO = 1 << 1
DIRTY_BITMAP = "qemu:dirty-bitmap:"
STATE_DIRTY = 1 << 0
