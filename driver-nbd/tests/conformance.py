# Each command, flag and error through libnbd, with its own checks of requests switched off.
# Arguments: a URI with %s for the export's name; 1 or 0 for structured replies.
import errno
import sys
import nbd

template, structured = sys.argv[1], sys.argv[2] == "1"
SIZE = 64 << 20


def connect(name):
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.set_strict_mode(0)
    if structured:
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(template % name)
    return h


def fails(expected, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except nbd.Error as error:
        assert error.errnum == expected, (error, expected, arguments)
        return
    raise AssertionError("%s%r did not fail" % (function.__name__, arguments))


def extents(h, count, offset, flags=0):
    found = []
    h.block_status(count, offset, lambda context, at, entries, error: found.extend(entries) or 0, flags)
    return list(zip(found[::2], found[1::2]))


h = connect("disk")
assert h.get_size() == SIZE
assert h.can_multi_conn() and h.can_fua() and h.can_flush() and h.can_trim() and h.can_zero()
assert h.can_df() == structured and not h.is_read_only()

# Bytes go where they belong, whatever the alignment.
h.zero(1 << 20, 0)
data = bytes(range(256)) * 16
h.pwrite(data, 1)
assert h.pread(len(data), 1) == data
assert h.pread(len(data) + 2, 0) == b"\0" + data + b"\0"
h.pwrite(b"x", SIZE - 1, nbd.CMD_FLAG_FUA)
assert h.pread(1, SIZE - 1) == b"x"
big = bytes(32 << 20)
h.pwrite(big, 0)
assert h.pread(32 << 20, 0) == big
h.flush()
h.flush(nbd.CMD_FLAG_FUA)

# Zeroes, with and without their space; trim.
h.pwrite(b"\xff" * 65536, 0)
h.zero(8192, 4096, nbd.CMD_FLAG_FUA)
h.zero(8192, 16384, nbd.CMD_FLAG_NO_HOLE)
h.trim(8192, 32768, nbd.CMD_FLAG_FUA)
assert h.pread(65536, 0) == (
    b"\xff" * 4096 + bytes(8192) + b"\xff" * 4096 + bytes(8192) + b"\xff" * 8192 + bytes(8192) + b"\xff" * 24576
)

# A read that must not be fragmented comes in one chunk.
if structured:
    chunks = []
    h.pread_structured(1 << 20, 0, lambda buffer, at, status, error: chunks.append((len(buffer), at, status)) or 0,
                       nbd.CMD_FLAG_DF)
    assert chunks == [(1 << 20, 0, nbd.READ_DATA)], chunks
    fails(errno.EOVERFLOW, h.pread, (32 << 20) + 1, 0, nbd.CMD_FLAG_DF)
else:
    fails(errno.EINVAL, h.pread, 512, 0, nbd.CMD_FLAG_DF)

# Block status.
if structured:
    hole = nbd.STATE_HOLE | nbd.STATE_ZERO
    assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    assert extents(h, 40960, 0) == [
        (4096, 0), (8192, hole), (4096, 0), (8192, nbd.STATE_ZERO), (8192, 0), (8192, hole)
    ], extents(h, 40960, 0)
    assert extents(h, 40960, 4096, nbd.CMD_FLAG_REQ_ONE) == [(8192, hole)]
    assert extents(h, 100, 4090) == [(6, 0), (94, hole)]
    fails(errno.EINVAL, h.block_status, 4096, SIZE - 512, lambda *a: 0)
    fails(errno.EINVAL, h.block_status, 0, 0, lambda *a: 0)

# Nothing asked for: nothing done, and the connection lives.
assert h.pread(0, 0) == b""
h.pwrite(b"", 0)
h.zero(0, 0)
h.trim(0, 0)
h.pwrite(b"", SIZE)

# Past the end, too long, misused flags.
fails(errno.EINVAL, h.pread, 512, SIZE)
fails(errno.EINVAL, h.pread, 2, SIZE - 1)
fails(errno.ENOSPC, h.pwrite, b"ab", SIZE - 1)
fails(errno.ENOSPC, h.pwrite, b"ab", (1 << 63) - 1)
fails(errno.ENOSPC, h.zero, 4096, SIZE - 4095)
fails(errno.EINVAL, h.trim, 4096, SIZE - 4095)
fails(errno.EINVAL, h.pread, (32 << 20) + 1, 0)
fails(errno.ENOTSUP, h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO)
fails(errno.EINVAL, h.cache, 4096, 0)
fails(errno.EINVAL, h.trim, 4096, 0, nbd.CMD_FLAG_NO_HOLE)
fails(errno.EINVAL, h.pwrite, b"ab", 0, nbd.CMD_FLAG_REQ_ONE)
assert h.pread(2, 0) == b"\xff\xff", "refused writes changed nothing, and the stream is still in step"

# Many at a time, over two connections; a flush on one covers the other.
other = connect("disk")
cookies = [(c, c.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i]) * 4096), (40 << 20) + i * 4096))
           for i, c in enumerate([h, other] * 100)]
for connection, cookie in cookies:
    while not connection.aio_command_completed(cookie):
        connection.poll(-1)
other.flush()
for i in range(200):
    assert h.pread(4096, (40 << 20) + i * 4096) == bytes([i]) * 4096

# Read-only.
frozen = connect("frozen")
assert frozen.is_read_only()
fails(errno.EPERM, frozen.pwrite, b"ab", 0)
fails(errno.EPERM, frozen.trim, 4096, 0)
fails(errno.EPERM, frozen.zero, 4096, 0)
frozen.flush()
assert frozen.pread(512, 0) == bytes(512)

# Options.
o = nbd.NBD()
o.set_opt_mode(True)
o.connect_uri(template % "disk")
names = []
o.opt_list(lambda name, description: names.append((name, description)) or 0)
assert names == [("disk", "a disk in memory"), ("frozen", "a disk in memory")], names
for queries, expected in [([], ["base:allocation", "qemu:allocation-depth"]), (["base:"], ["base:allocation"]),
                          (["qemu:"], ["qemu:allocation-depth"]), (["qemu:dirty-bitmap:x"], []),
                          (["x-other:thing", "base:allocation"], ["base:allocation"]), (["base:nothing"], [])]:
    found = []
    o.clear_meta_contexts()
    for query in queries:
        o.add_meta_context(query)
    o.opt_list_meta_context(lambda name: found.append(name) or 0)
    assert found == expected, (queries, found)
o.set_export_name("nothing")
fails(errno.ENOENT, o.opt_info)
o.set_export_name("busy")
fails(errno.ENOTSUP, o.opt_go)  # what libnbd makes of NBD_REP_ERR_POLICY
o.set_export_name("disk")
o.set_full_info(True)
o.opt_info()
assert o.get_size() == SIZE and o.get_export_description() == "a disk in memory"
assert o.get_canonical_export_name() == "disk"
assert [o.get_block_size(i) for i in range(3)] == [1, 4096, 32 << 20]
o.opt_go()
assert len(o.pread(512, 0)) == 512
o.shutdown()
o = nbd.NBD()
o.set_opt_mode(True)
o.connect_uri(template % "disk")
o.opt_abort()
print("all as specified")
