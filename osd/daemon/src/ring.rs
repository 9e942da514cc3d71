//! Ring: one io_uring for the disk, the sockets and the eventfd of the data thread, behind a safe interface.
//! G1: what the kernel may read or write (buffers, pieces, vectors, message headers) and the descriptor it does it through belong to a
//! slot from before the submission until the completion is reaped. G2: a slot's heap memory never moves while it is in flight.
//! G3: a ring that is dropped with operations in flight leaks their memory instead of freeing what the kernel may still write.
//! Called by `shell`. Knows operations; knows no message and no disk layout.
//!
//! JUSTIFICATION for unsafe code here: 4 KiB direct I/O at queue depth 32 reaches 249k reads and 287k writes per second this way, 41k
//! and 60k by blocking calls on a thread pool, 222k and 262k by the safe wrapper tokio-uring, which has no maintainer.
#![allow(unsafe_code)] // io_uring's operations are raw pointers; this module is the only one in the workspace that holds them

use bytes::{Bytes, BytesMut};
use io_uring::{IoUring, opcode, squeue, types};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A descriptor that stays open while an operation uses it, whoever else drops it (G1).
pub type Descriptor = Arc<OwnedFd>;

/// The most pieces of one vectored write (UIO_MAXIOV).
pub const MAX_PIECES: usize = 1024;

const SUBMISSION_ENTRIES: u32 = 512;
const COMPLETION_ENTRIES: u32 = 4096;
/// The mode of kernels before 5.19.
const PLAIN: &str = "plain";
/// IORING_RECVSEND_POLL_FIRST of io_uring_enter(2), since Linux 5.19.
const RECVSEND_POLL_FIRST: u16 = 1;
/// The tag of a cancellation, which has no slot.
const NO_SLOT: u64 = u64::MAX;

/// An operation; given back with its completion, buffers and all.
pub enum Op {
    /// Waits for a connection on a listening socket.
    Accept { listener: Descriptor },
    /// Appends to the buffer what a socket has, up to the buffer's capacity. Completes with 0 at the stream's end. `is_drained`: there was
    /// nothing left last time, so the kernel waits for more before it looks.
    Receive { socket: Descriptor, buffer: BytesMut, is_drained: bool },
    /// Sends all pieces in order; at most [`MAX_PIECES`].
    Send { socket: Descriptor, pieces: Vec<Bytes> },
    /// Fills an empty buffer with the `len` bytes at `at`, all of them.
    Read { file: Descriptor, at: u64, len: usize, buffer: BytesMut },
    /// Writes all pieces one behind the other; at most [`MAX_PIECES`]. `through`: they are on stable storage when it completes (RWF_DSYNC,
    /// for which the kernel asks a block device for FUA).
    Write { file: Descriptor, at: u64, pieces: Vec<Bytes>, through: bool },
    /// fdatasync.
    Flush { file: Descriptor },
    /// Gives the range back to the device or file system.
    Discard { file: Descriptor, at: u64, len: u64 },
    /// Waits until somebody adds to an eventfd.
    WaitEvent { event: Descriptor },
    /// Completes after this time.
    Timer { span: Duration },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Accept { .. } => write!(f, "Accept"),
            Op::Receive { buffer, .. } => write!(f, "Receive({} bytes of room)", buffer.capacity() - buffer.len()),
            Op::Send { pieces, .. } => write!(f, "Send({} pieces)", pieces.len()),
            Op::Read { at, len, .. } => write!(f, "Read({len} bytes at {at})"),
            Op::Write { at, pieces, .. } => write!(f, "Write({} pieces at {at})", pieces.len()),
            Op::Flush { .. } => write!(f, "Flush"),
            Op::Discard { at, len, .. } => write!(f, "Discard({len} bytes at {at})"),
            Op::WaitEvent { .. } => write!(f, "WaitEvent"),
            Op::Timer { span } => write!(f, "Timer({span:?})"),
        }
    }
}

#[derive(Debug)]
pub enum Done {
    /// How many bytes were received, sent, read or written; 0 for all else.
    Bytes(usize),
    Accepted(OwnedFd),
}

/// What [`Ring::look`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Something has ended.
    Found,
    /// Nothing has, within the time.
    Nothing,
    /// Others had the processor for so long.
    Contended(Duration),
}

#[derive(Debug)]
pub struct Completion<T> {
    pub tag: T,
    pub op: Op,
    pub result: io::Result<Done>,
}

/// One place for an operation in flight. Reused, with its allocations.
struct Slot<T> {
    running: Option<(T, Op)>,
    /// Bytes done by earlier parts of the same operation.
    done: usize,
    vectors: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
    event: Box<u64>,
    span: Box<types::Timespec>,
}

impl<T> Slot<T> {
    fn new() -> Slot<T> {
        // SAFETY: msghdr consists of integers and pointers, for which zero is a value.
        // JUSTIFICATION: the structure has private padding on some targets and no constructor.
        let message = Box::new(unsafe { std::mem::zeroed() });
        Slot { running: None, done: 0, vectors: Vec::new(), message, event: Box::new(0), span: Box::default() }
    }
}

pub struct Ring<T> {
    ring: IoUring,
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    /// Entries that wait for room in the submission queue.
    queued: VecDeque<squeue::Entry>,
    reaped: Vec<(u64, i32)>,
    in_flight: usize,
    /// Which of the faster modes the kernel took; for the log.
    mode: &'static str,
}

impl<T> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({}, {} in flight)", self.mode, self.in_flight)
    }
}

impl<T> Ring<T> {
    /// The ring belongs to the calling thread: no other may enter it.
    pub fn new() -> io::Result<Ring<T>> {
        let (ring, mode) = build()?;
        let (slots, free, queued, reaped) = (Vec::new(), Vec::new(), VecDeque::new(), Vec::new());
        Ok(Ring { ring, slots, free, queued, reaped, in_flight: 0, mode })
    }

    pub fn mode(&self) -> &'static str {
        self.mode
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Takes an operation; it starts with the next `enter`.
    pub fn submit(&mut self, tag: T, op: Op) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::new());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        assert!(slot.running.is_none(), "G1: a free slot has no operation");
        slot.running = Some((tag, op));
        slot.done = 0;
        self.in_flight += 1;
        self.queue(index);
    }

    /// Makes the entry of a slot's operation, or of what is left of it.
    fn queue(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some((_, op)) = &mut slot.running else { unreachable!("G1: called for a slot in use") };
        let done = slot.done;
        let entry = match op {
            Op::Accept { listener } => opcode::Accept::new(fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
                .flags(libc::SOCK_CLOEXEC)
                .build(),
            Op::Receive { socket, buffer, is_drained } => {
                let room = buffer.spare_capacity_mut();
                let priority = if *is_drained && self.mode != PLAIN { RECVSEND_POLL_FIRST } else { 0 };
                opcode::Recv::new(fd(socket), room.as_mut_ptr().cast(), length(room.len())).ioprio(priority).build()
            }
            Op::Send { socket, pieces } => {
                point_at(&mut slot.vectors, pieces, done);
                slot.message.msg_iov = slot.vectors.as_mut_ptr();
                slot.message.msg_iovlen = slot.vectors.len();
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                opcode::SendMsg::new(fd(socket), &*slot.message).flags(flags as u32).build()
            }
            Op::Read { file, at, len, buffer } => {
                assert!(buffer.len() == done && *len <= buffer.capacity(), "G1: there is room for all of a read");
                let room = &mut buffer.spare_capacity_mut()[..*len - done];
                let start = room.as_mut_ptr().cast();
                opcode::Read::new(fd(file), start, length(room.len())).offset(*at + done as u64).build()
            }
            Op::Write { file, at, pieces, through } => {
                point_at(&mut slot.vectors, pieces, done);
                let count = length(slot.vectors.len());
                let flags = if *through { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(fd(file), slot.vectors.as_ptr(), count)
                    .offset(*at + done as u64)
                    .rw_flags(flags)
                    .build()
            }
            Op::Flush { file } => opcode::Fsync::new(fd(file)).flags(types::FsyncFlags::DATASYNC).build(),
            Op::Discard { file, at, len } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new(fd(file), *len).offset(*at).mode(mode).build()
            }
            Op::WaitEvent { event } => {
                let target: *mut u64 = &mut *slot.event;
                opcode::Read::new(fd(event), target.cast(), 8).build()
            }
            Op::Timer { span } => {
                *slot.span = types::Timespec::from(*span);
                opcode::Timeout::new(&*slot.span).build()
            }
        };
        self.queued.push_back(entry.user_data(index as u64));
    }

    /// Starts everything that was submitted, with one call to the kernel, and waits until `count` operations are done or `timeout` is over.
    /// `None` waits for as long as it takes.
    pub fn enter(&mut self, count: usize, timeout: Option<Duration>) -> io::Result<()> {
        loop {
            self.fill();
            let must_not_wait = !self.queued.is_empty() || !self.ring.completion().is_empty();
            let timeout = if must_not_wait { Some(Duration::ZERO) } else { timeout };
            let submitter = self.ring.submitter();
            let result = match timeout {
                None => submitter.submit_and_wait(count),
                Some(span) => {
                    let span = types::Timespec::from(span);
                    submitter.submit_with_args(count, &types::SubmitArgs::new().timespec(&span))
                }
            };
            match result {
                Ok(_) => {}
                Err(e) => match e.raw_os_error() {
                    // Time is over, a signal came, or completions must be reaped first: all are reasons to look.
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => return Ok(()),
                    _ => return Err(e),
                },
            }
            if self.queued.is_empty() {
                return Ok(());
            }
        }
    }

    /// Starts everything that was submitted, and looks for ends without going to sleep, for up to `span`. Between two looks whoever else is
    /// ready to run goes first; should that take longer than `yield_max`, it gives up: the processor is awake without it.
    pub fn look(&mut self, span: Duration, yield_max: Duration) -> io::Result<Looked> {
        self.fill();
        self.start()?;
        let begin = Instant::now();
        let mut now = begin;
        loop {
            if self.is_work_left() {
                self.fill();
                self.start()?;
            }
            if !self.ring.completion().is_empty() {
                return Ok(Looked::Found);
            }
            if now - begin >= span {
                return Ok(Looked::Nothing);
            }
            std::thread::yield_now();
            let before = std::mem::replace(&mut now, Instant::now());
            if now - before > yield_max {
                return Ok(Looked::Contended(now - before));
            }
        }
    }

    /// Hands what is in the submission queue to the kernel, and runs what the kernel left to be done on this thread.
    fn start(&self) -> io::Result<()> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                // A signal came, or completions must be reaped first.
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(e),
            },
        }
    }

    /// Whether [`Ring::start`] has something to do. A plain ring's kernel does everything by itself.
    fn is_work_left(&mut self) -> bool {
        !self.queued.is_empty() || self.ring.submission().taskrun()
    }

    fn fill(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.queued.front() {
            // SAFETY: the entry points into a slot that holds its memory and descriptor until the completion (G1, G2).
            // JUSTIFICATION: io_uring has no safe submission; see the header.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            self.queued.pop_front();
        }
    }

    /// Moves what is done to the end of `out`.
    pub fn completions(&mut self, out: &mut Vec<Completion<T>>) {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
        for (index, result) in reaped.drain(..) {
            if index != NO_SLOT {
                self.on_completion(usize::try_from(index).expect("given by queue"), result, out);
            }
        }
        self.reaped = reaped;
    }

    fn on_completion(&mut self, index: usize, result: i32, out: &mut Vec<Completion<T>>) {
        let slot = &mut self.slots[index];
        let Some((tag, mut op)) = slot.running.take() else { unreachable!("G1: a completion has its slot") };
        let is_time_over = matches!(op, Op::Timer { .. }) && result == -libc::ETIME;
        let result = match usize::try_from(if is_time_over { 0 } else { result }) {
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
            Ok(bytes) => {
                if let Op::Receive { buffer, .. } | Op::Read { buffer, .. } = &mut op {
                    let len = buffer.len() + bytes;
                    assert!(len <= buffer.capacity(), "G1: the kernel was given this room");
                    // SAFETY: the kernel has written `bytes` bytes behind the old length, within the capacity (asserted above).
                    // JUSTIFICATION: the safe way is to zero 256 KiB before each receive; that costs as much as the copy saved.
                    unsafe { buffer.set_len(len) };
                }
                slot.done += bytes;
                let wanted = match &op {
                    Op::Send { pieces, .. } | Op::Write { pieces, .. } => pieces.iter().map(Bytes::len).sum(),
                    Op::Read { len, .. } => *len,
                    _ => 0,
                };
                match (bytes, slot.done < wanted) {
                    (0, true) => Err(short(&op)),
                    (_, true) => {
                        slot.running = Some((tag, op));
                        self.queue(index);
                        return;
                    }
                    (_, false) => Ok(done(&op, slot.done)),
                }
            }
        };
        slot.vectors.clear();
        self.free.push(index);
        self.in_flight -= 1;
        out.push(Completion { tag, op, result });
    }

    /// Asks the kernel to end everything in flight; the completions come as always.
    pub fn cancel_all(&mut self) {
        let all = types::CancelBuilder::any();
        self.queued.push_back(opcode::AsyncCancel2::new(all).build().user_data(NO_SLOT));
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // G3.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

fn fd(descriptor: &Descriptor) -> types::Fd {
    types::Fd(descriptor.as_raw_fd())
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("buffers and lists are far below 4 GiB")
}

/// Fills `vectors` with the pieces, less the first `done` bytes.
fn point_at(vectors: &mut Vec<libc::iovec>, pieces: &[Bytes], done: usize) {
    assert!(pieces.len() <= MAX_PIECES, "the kernel takes no more");
    vectors.clear();
    let mut skip = done;
    for piece in pieces {
        let rest = &piece[skip.min(piece.len())..];
        skip -= piece.len() - rest.len();
        if !rest.is_empty() {
            vectors.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
        }
    }
}

fn done(op: &Op, result: usize) -> Done {
    match op {
        Op::Accept { .. } => {
            let raw = i32::try_from(result).expect("descriptors are i32");
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
            // JUSTIFICATION: io_uring gives descriptors as numbers.
            Done::Accepted(unsafe { OwnedFd::from_raw_fd(raw) })
        }
        Op::Receive { .. } | Op::Send { .. } | Op::Read { .. } | Op::Write { .. } => Done::Bytes(result),
        Op::Flush { .. } | Op::Discard { .. } | Op::WaitEvent { .. } | Op::Timer { .. } => Done::Bytes(0),
    }
}

/// Why an operation got no further.
fn short(op: &Op) -> io::Error {
    match op {
        Op::Read { .. } => io::ErrorKind::UnexpectedEof.into(),
        _ => io::ErrorKind::WriteZero.into(),
    }
}

/// The kernel's modes from the fastest to the plainest: `DEFER_TASKRUN` needs Linux 6.1, `COOP_TASKRUN` 5.19.
fn build() -> io::Result<(IoUring, &'static str)> {
    let mut refused = None;
    for mode in ["defer-taskrun", "coop-taskrun", PLAIN] {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETION_ENTRIES).setup_clamp();
        match mode {
            "defer-taskrun" => builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag(),
            "coop-taskrun" => builder.setup_coop_taskrun().setup_taskrun_flag(),
            _ => &mut builder,
        };
        match builder.build(SUBMISSION_ENTRIES) {
            Ok(ring) => return Ok((ring, mode)),
            Err(e) => refused = Some(e),
        }
    }
    Err(refused.expect("at least one mode was tried"))
}

#[cfg(test)]
mod tests;
