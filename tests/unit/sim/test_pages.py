"""Which memory a long simulation asks large pages for."""

from bench.pages import PAGE_BYTES, _allocated, enlarge

MAPS = """\
00400000-00a00000 r-xp 00000000 08:01 7                          /usr/bin/python
10000000-10600000 rw-p 00000000 00:00 0                          [heap]
20100000-20700000 rw-p 00000000 00:00 0
30000000-30100000 rw-p 00000000 00:00 0
40000000-40800000 rw-p 00001000 08:01 9                          /tmp/a file
50000000-50800000 rw-p 00000000 00:00 0                          [stack]
"""


def test_only_whole_large_pages_of_private_memory_are_asked_for() -> None:
    assert list(_allocated(MAPS)) == [(0x10000000, 0x10600000), (0x20200000, 0x20600000)]
    assert PAGE_BYTES == 0x200000


def test_asking_changes_nothing_that_is_stored() -> None:
    stored = [bytearray([number % 251]) * 4096 for number in range(2048)]
    enlarge()
    assert all(block == bytes([number % 251]) * 4096 for number, block in enumerate(stored))
