"""A boot sector that proves a virtual CPU: it enters 64-bit mode, uses memory through its page tables, and ends QEMU.

For sites without a Linux kernel at hand. It ends QEMU by isa-debug-exit (port 0x501, its default) with status 99.
"""

PASSED = 99
"""isa-debug-exit's status for 0x31: value * 2 + 1."""

_CODE = bytes.fromhex(
    "fa"  # cli
    "31c0 8ed8 8ec0 8ed0 bc007c fc"  # ds = es = ss = 0; sp = 0x7c00; cld
    "bf0010 b9000c 6631c0 66f3ab"  # zero three pages at 0x1000
    "66c706001003200000"  # PML4[0] = 0x2000, present, writable
    "66c706002003300000"  # PDPT[0] = 0x3000, present, writable
    "66c706003083000000"  # PD[0] = 2 MiB page at 0, present, writable
    "66b8a0000000 0f22e0"  # cr4 = PAE, PGE
    "66b800100000 0f22d8"  # cr3 = PML4
    "66b9800000c0 0f32 660d00010000 0f30"  # EFER.LME
    "0f20c0 660d01000080 0f22c0"  # cr0 |= paging, protection
    "0f0116b07c"  # lgdt [0x7cb0]
    "ea6c7c0800"  # jmp 0x08:0x7c6c, from here 64-bit:
    "48b8efcdab8967452301"  # rax = 0x0123456789abcdef
    "4889042500800000 483b042500800000 7510"  # store, compare, else halt
    "b940420f00 ffc9 75fc"  # a million rounds of a loop
    "66ba0105 b031 ee"  # out 0x501, 0x31
    "f4 ebfd"  # halt for ever
    "0f1f440000"  # padding to a multiple of eight
    "0000000000000000 00000000009a2000"  # GDT: null, 64-bit code
    "0f00 a07c0000"  # its limit and address (0x7ca0)
)


def boot_sector() -> bytes:
    """512 bytes."""
    return _CODE.ljust(510, b"\0") + b"\x55\xaa"
