"""What runs inside the guest. Only modules of Debian's python3-minimal may be imported here (no json, no hashlib's
OpenSSL); ``records`` is shared with the host, which checks the same chain from outside."""
