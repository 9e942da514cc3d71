//! The requests of one connection that are under way: from the reader, through the device, to the writer.
//!
//! F1: a slot belongs to one request from `reserve` to the writer's release; its index is the request's tag.
//! F2: at most `requests_max` slots are taken, and `bytes <= bytes_max` unless a single request is longer than that.
//!     Who finds no room waits, and so reads no further: the client's own socket holds it back.
//! F3: a slot completes once.
//! F4: what goes beyond `OWN_BYTES` is taken from a pool that all connections share. Who finds it empty waits for requests of
//!     its own, of which there are some, so nobody's progress depends on another client's.
//!
//! One lock per connection, held for a push or a swap; completions come from any thread and never wait for the client.

use crate::protocol::{Command, Failure, Request};
use ashlar_types::{BlockError, BlockReply, Completions};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

/// How a request ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Device(Result<BlockReply, BlockError>),
    Refused(Failure),
}

/// A request that awaits its reply being written.
#[derive(Debug)]
pub(super) struct Finished {
    slot: u32,
    pub request: Request,
    pub outcome: Outcome,
}

/// Payload bytes that a connection may have under way whatever the others have: a QD of 256 at 4 KiB.
const OWN_BYTES: usize = 1 << 20;

/// Payload bytes that connections have under way beyond their own.
#[derive(Debug)]
pub(super) struct Pool {
    left: AtomicUsize,
}

impl Pool {
    pub fn new(bytes: usize) -> Pool {
        Pool { left: AtomicUsize::new(bytes) }
    }

    fn take(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct Flight {
    requests_max: usize,
    bytes_max: usize,
    pool: Arc<Pool>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Payload bytes of taken slots: the connection's own, and the pool's.
    own: usize,
    pooled: usize,
    /// Completed, in that order.
    ready: Vec<(u32, Outcome)>,
    reader_is_done: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Free,
    Taken(Entry),
    Completed(Entry),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    request: Request,
    /// Whether its payload is counted in the pool, or else as the connection's own.
    is_pooled: bool,
}

/// What a request may keep in memory: its payload, in whichever direction.
fn payload_bytes(request: &Request) -> usize {
    match request.command {
        Command::Read | Command::Write => request.len as usize,
        _ => 0,
    }
}

impl Flight {
    pub fn new(requests_max: usize, bytes_max: usize, pool: Arc<Pool>) -> Flight {
        Flight { requests_max: requests_max.max(1), bytes_max, pool, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Takes a slot, as soon as there is room (F2). Only the reader calls this.
    pub async fn reserve(&self, request: Request) -> u32 {
        poll_fn(|context| {
            let mut state = self.state();
            match state.take(request, self) {
                Some(slot) => Poll::Ready(slot),
                None => {
                    state.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The payload never came: the request gets no reply.
    pub fn abandon(&self, slot: u32) {
        self.state().release(slot, &self.pool);
    }

    /// No more requests; the writer ends when it has answered all there are.
    pub fn reader_is_done(&self) {
        let writer = {
            let mut state = self.state();
            state.reader_is_done = true;
            state.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Frees the slots of `batch`, whose replies are written, and fills it with what is ready; waits until something is.
    /// An empty batch: there will be nothing more. Only the writer calls this.
    pub async fn next_batch(&self, batch: &mut Vec<Finished>) {
        self.free(batch);
        poll_fn(|context| {
            let mut state = self.state();
            if state.ready.is_empty() {
                if state.reader_is_done && state.taken() == 0 {
                    return Poll::Ready(());
                }
                if !state.writer.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    state.writer = Some(context.waker().clone());
                }
                return Poll::Pending;
            }
            let State { slots, ready, .. } = &mut *state;
            for (slot, outcome) in ready.drain(..) {
                let Slot::Completed(entry) = slots[slot as usize] else { unreachable!("F3") };
                batch.push(Finished { slot, request: entry.request, outcome });
            }
            Poll::Ready(())
        })
        .await;
    }

    fn free(&self, batch: &mut Vec<Finished>) {
        if batch.is_empty() {
            return;
        }
        let reader = {
            let mut state = self.state();
            for finished in batch.iter() {
                state.release(finished.slot, &self.pool);
            }
            state.reader.take()
        };
        batch.clear();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The request has ended; its reply may be written.
    pub fn finish(&self, slot: u32, outcome: Outcome) {
        let writer = {
            let mut state = self.state();
            let Some(Slot::Taken(entry)) = state.slots.get(slot as usize).copied() else {
                panic!("F3: a device completed request {slot}, which it does not have");
            };
            state.slots[slot as usize] = Slot::Completed(entry);
            state.ready.push((slot, outcome));
            state.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }
}

impl State {
    fn taken(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn take(&mut self, request: Request, limits: &Flight) -> Option<u32> {
        let bytes = payload_bytes(&request);
        let total = self.own + self.pooled + bytes;
        if self.taken() >= limits.requests_max || (total > limits.bytes_max && total > bytes) {
            return None;
        }
        let is_own = self.own == 0 || self.own + bytes <= OWN_BYTES;
        if is_own {
            self.own += bytes;
        } else if limits.pool.take(bytes) {
            self.pooled += bytes;
        } else {
            return None;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            u32::try_from(self.slots.len() - 1).expect("a connection has few slots")
        });
        assert!(matches!(self.slots[slot as usize], Slot::Free), "F1");
        self.slots[slot as usize] = Slot::Taken(Entry { request, is_pooled: !is_own });
        Some(slot)
    }

    fn release(&mut self, slot: u32, pool: &Pool) {
        let slot_was = std::mem::replace(&mut self.slots[slot as usize], Slot::Free);
        let (Slot::Taken(entry) | Slot::Completed(entry)) = slot_was else { panic!("F1: slot {slot} is free") };
        let bytes = payload_bytes(&entry.request);
        if entry.is_pooled {
            self.pooled -= bytes;
            pool.give_back(bytes);
        } else {
            self.own -= bytes;
        }
        self.free.push(slot);
    }
}

impl Drop for Flight {
    /// The last requests of a connection that broke off end with it.
    fn drop(&mut self) {
        let pooled = self.state().pooled;
        self.pool.give_back(pooled);
    }
}

impl Completions for Flight {
    fn complete(&self, tag: u64, result: Result<BlockReply, BlockError>) {
        let slot = u32::try_from(tag).expect("F1: tags are slots");
        self.finish(slot, Outcome::Device(result));
    }
}
