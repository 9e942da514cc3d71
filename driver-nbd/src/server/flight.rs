//! The requests of one connection that are under way: from the reader, through the device, to the writer.
//!
//! F1: a slot belongs to one request from `reserve` to the writer's release; its index is the request's tag.
//! F2: at most `requests_max` slots are taken, and `bytes <= bytes_max` unless a single request is longer than that.
//!     Who finds no room waits, and so reads no further: the client's own socket holds it back.
//! F3: a slot completes once. Once the writer is gone, that frees it.
//! F4: `own <= OWN_BYTES`, whatever others have under way. All that goes beyond is taken from what connections share;
//!     who finds that empty waits until others give something back (O2), or until the request is one of its own.
//!
//! One lock per connection, held for a push or a swap; completions come from any thread and never wait for the client.

use super::accounts::Seat;
use crate::protocol::spec::{BLOCK_SIZE_PREFERRED, DESCRIPTORS_MAX};
use crate::protocol::{Command, Failure, Request};
use ashlar_types::{BlockError, BlockReply, Completions, Extent, LayerExtent};
use std::future::{Future, poll_fn};
use std::pin::pin;
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

#[derive(Debug)]
pub(super) struct Flight {
    requests_max: usize,
    bytes_max: usize,
    seat: Seat,
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
    writer_is_gone: bool,
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
    counted: Counted,
}

/// Where the memory of a request is counted.
#[derive(Clone, Copy, Debug)]
enum Counted {
    Own(usize),
    Pooled(usize),
}

/// Bytes of an extent, as the device gives it and as the reply has it.
const EXTENT_BYTES: usize = size_of::<Extent>() + 8;
/// The same where it is told which layer has it, of two contexts at most.
const LAYER_EXTENT_BYTES: usize = size_of::<LayerExtent>() + 16;

/// What a request may keep in memory: its payload, in whichever direction, or the extents of its range.
fn memory_bytes(request: &Request) -> usize {
    match request.command {
        Command::Read | Command::Write => request.len as usize,
        Command::BlockStatus { contexts, .. } if contexts.depth => extents_max(request) * LAYER_EXTENT_BYTES,
        Command::BlockStatus { .. } => extents_max(request) * EXTENT_BYTES,
        Command::Flush | Command::Trim | Command::WriteZeroes { .. } => 0,
    }
}

/// How many extents of a device's answer are kept: a reply has no more, and a device rarely knows smaller ones than blocks.
fn extents_max(request: &Request) -> usize {
    match request.command {
        Command::BlockStatus { one: true, .. } => 1,
        _ => (request.len.div_ceil(BLOCK_SIZE_PREFERRED) as usize + 1).min(DESCRIPTORS_MAX),
    }
}

impl Flight {
    pub fn new(requests_max: usize, bytes_max: usize, seat: Seat) -> Flight {
        Flight { requests_max: requests_max.max(1), bytes_max, seat, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Takes a slot, as soon as there is room (F2, F4). Only the reader calls this.
    pub async fn reserve(&self, request: Request) -> Reserved<'_> {
        let bytes = memory_bytes(&request);
        let mut pooled = pin!(self.seat.take(bytes));
        poll_fn(|context| {
            let mut state = self.state();
            let counted = if !state.has_room(bytes, self) {
                Poll::Pending
            } else if state.own + bytes <= OWN_BYTES {
                Poll::Ready(Counted::Own(bytes))
            } else {
                // From here on there is room until this request takes it, as nobody else reserves: the pool gives nothing
                // to who can't use it at once (O2).
                pooled.as_mut().poll(context).map(Counted::Pooled)
            };
            match counted {
                Poll::Ready(counted) => {
                    let slot = state.take(Entry { request, counted });
                    Poll::Ready(Reserved { flight: self, slot, is_kept: false })
                }
                Poll::Pending => {
                    state.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn extents_max(&self, slot: u32) -> usize {
        match self.state().slots.get(slot as usize) {
            Some(Slot::Taken(entry)) => extents_max(&entry.request),
            _ => 0, // and `finish` will say what is wrong
        }
    }

    /// Whether it has something that others may wait for.
    pub fn holds_pooled(&self) -> bool {
        self.state().pooled > 0
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
                state.release(finished.slot, &self.seat);
            }
            state.reader.take()
        };
        batch.clear();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Nobody writes replies any more, and those that were on their way are gone with the writer.
    fn writer_is_gone(&self) {
        let unwritten = {
            let mut state = self.state();
            state.writer_is_gone = true;
            for slot in 0..u32::try_from(state.slots.len()).expect("a connection has few slots") {
                if let Slot::Completed(_) = state.slots[slot as usize] {
                    state.release(slot, &self.seat);
                }
            }
            std::mem::take(&mut state.ready)
        };
        drop(unwritten);
    }

    /// The request has ended; its reply may be written.
    pub fn finish(&self, slot: u32, outcome: Outcome) {
        let writer = {
            let mut state = self.state();
            let Some(Slot::Taken(entry)) = state.slots.get(slot as usize).copied() else {
                panic!("F3: a device completed request {slot}, which it does not have");
            };
            if state.writer_is_gone {
                return state.release(slot, &self.seat);
            }
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

    fn has_room(&self, bytes: usize, limits: &Flight) -> bool {
        let before = self.own + self.pooled;
        self.taken() < limits.requests_max && (before == 0 || before + bytes <= limits.bytes_max)
    }

    fn take(&mut self, entry: Entry) -> u32 {
        match entry.counted {
            Counted::Own(bytes) => self.own += bytes,
            Counted::Pooled(bytes) => self.pooled += bytes,
        }
        assert!(self.own <= OWN_BYTES, "F4");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            u32::try_from(self.slots.len() - 1).expect("a connection has few slots")
        });
        assert!(matches!(self.slots[slot as usize], Slot::Free), "F1");
        self.slots[slot as usize] = Slot::Taken(entry);
        slot
    }

    fn release(&mut self, slot: u32, seat: &Seat) {
        let slot_was = std::mem::replace(&mut self.slots[slot as usize], Slot::Free);
        let (Slot::Taken(entry) | Slot::Completed(entry)) = slot_was else { panic!("F1: slot {slot} is free") };
        match entry.counted {
            Counted::Own(bytes) => self.own -= bytes,
            Counted::Pooled(bytes) => {
                self.pooled -= bytes;
                seat.give_back(bytes);
            }
        }
        self.free.push(slot);
    }
}

/// A slot whose request isn't at the device yet. Dropped, it is free again: the payload never came, there will be no reply.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    flight: &'a Flight,
    slot: u32,
    is_kept: bool,
}

impl Reserved<'_> {
    /// The slot, which completes (F3).
    pub fn keep(mut self) -> u32 {
        self.is_kept = true;
        self.slot
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.flight.state().release(self.slot, &self.flight.seat);
        }
    }
}

/// Held by the writer; tells when it ends, also if it is aborted.
#[derive(Debug)]
pub(super) struct WriterSide(pub Arc<Flight>);

impl Drop for WriterSide {
    fn drop(&mut self) {
        self.0.writer_is_gone();
    }
}

impl Drop for Flight {
    /// The last requests of a connection that broke off end with it.
    fn drop(&mut self) {
        let pooled = self.state().pooled;
        self.seat.give_back(pooled);
    }
}

impl Completions for Flight {
    fn complete(&self, tag: u64, mut result: Result<BlockReply, BlockError>) {
        let slot = u32::try_from(tag).expect("F1: tags are slots");
        // "The server MAY return less data than requested": no more than was reserved.
        match &mut result {
            Ok(BlockReply::Extents(extents)) => {
                extents.truncate(self.extents_max(slot));
                extents.shrink_to_fit();
            }
            Ok(BlockReply::Layers(extents)) => {
                extents.truncate(self.extents_max(slot));
                extents.shrink_to_fit();
            }
            _ => {}
        }
        self.finish(slot, Outcome::Device(result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Contexts;
    use crate::server::accounts::Accounts;
    use std::task::Context;

    const MIB: usize = 1 << 20;

    fn read(len: usize) -> Request {
        Request { cookie: 0, command: Command::Read, offset: 0, len: u32::try_from(len).expect("a short read") }
    }

    /// So many connections of an export that has so many bytes to share.
    fn flights(count: usize, bytes: usize) -> Vec<Flight> {
        let accounts = Arc::new(Accounts::new(count, bytes, bytes));
        (0..count).map(|_| Flight::new(256, 64 * MIB, accounts.seat("disk").expect("one for each"))).collect()
    }

    /// The slot, if there is room now.
    fn reserve_for(flight: &Flight, request: Request) -> Option<Reserved<'_>> {
        match pin!(flight.reserve(request)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reserved) => Some(reserved),
            Poll::Pending => None,
        }
    }

    fn reserve(flight: &Flight, len: usize) -> Option<Reserved<'_>> {
        reserve_for(flight, read(len))
    }

    #[test]
    fn a_long_request_is_charged_to_the_pool_also_where_it_is_the_first() {
        let flights = flights(100, 64 * MIB);
        let mut reserved: Vec<Reserved> = flights.iter().filter_map(|flight| reserve(flight, 32 * MIB)).collect();
        assert_eq!(reserved.len(), 2);
        assert!(reserve(&flights[50], MIB).is_some(), "its own is left to each");
        reserved.pop();
        assert!(reserve(&flights[70], 32 * MIB).is_some());
    }

    #[test]
    fn block_status_is_kept_no_longer_than_its_reply_and_charged() {
        let flight = flights(1, MIB).remove(0);
        let contexts = Contexts { allocation: true, depth: false };
        let status = |one, len| Request { cookie: 0, command: Command::BlockStatus { one, contexts }, offset: 0, len };
        let reserve = |request| reserve_for(&flight, request).map(Reserved::keep);
        let slots: Vec<u32> = std::iter::from_fn(|| reserve(status(false, u32::MAX))).collect();
        assert_eq!(slots.len(), 4, "two of its own, two of the pool's");
        let small = [(status(true, u32::MAX), 1), (status(false, 8192), 3)];
        let small = small.map(|(request, kept)| (reserve(request).expect("room for a few bytes"), kept));
        for (slot, kept) in slots.into_iter().map(|slot| (slot, DESCRIPTORS_MAX)).chain(small) {
            let extents = vec![Extent { len: 1, allocated: true, zero: false }; 65_536];
            flight.complete(u64::from(slot), Ok(BlockReply::Extents(extents)));
            match &flight.state().ready.last().expect("completed").1 {
                Outcome::Device(Ok(BlockReply::Extents(extents))) => {
                    assert_eq!((extents.len(), extents.capacity()), (kept, kept));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_pool_is_given_to_who_waited_longest_and_back_by_who_gives_up() {
        let flights = flights(4, 8 * MIB);
        let left = || flights[0].seat.left();
        let context = &mut Context::from_waker(Waker::noop());
        let first = reserve(&flights[0], 6 * MIB).expect("there is room");
        {
            let mut long = pin!(flights[1].reserve(read(8 * MIB)));
            let mut short = pin!(flights[2].reserve(read(2 * MIB)));
            assert!(long.as_mut().poll(context).is_pending());
            assert!(short.as_mut().poll(context).is_pending(), "O1: no overtaking, though there are 2 MiB");
            drop(first);
            let Poll::Ready(reserved) = long.as_mut().poll(context) else { panic!("it waited longest") };
            assert!(short.as_mut().poll(context).is_pending());
            assert_eq!(left(), 0);
            drop(reserved);
        }
        assert_eq!(left(), 8 * MIB);
        let all = reserve(&flights[3], 32 * MIB).expect("longer than what is shared: takes all of it");
        assert_eq!(left(), 0);
        drop(all);
        assert_eq!(left(), 8 * MIB);
    }

    #[test]
    fn what_a_gone_connection_has_at_the_device_is_given_back_answer_by_answer() {
        let flight = Arc::new(flights(1, 8 * MIB).remove(0));
        let slots: Vec<u32> = (0..4).map(|_| reserve(&flight, 2 * MIB).expect("there is room").keep()).collect();
        assert_eq!(flight.seat.left(), 0);
        let done = || Ok(BlockReply::Data(Vec::new()));
        flight.complete(u64::from(slots[2]), done());
        drop(WriterSide(flight.clone()));
        assert_eq!(flight.seat.left(), 2 * MIB, "a reply that was not written");
        flight.complete(u64::from(slots[0]), done());
        assert_eq!(flight.seat.left(), 4 * MIB);
        assert!(flight.state().ready.is_empty());
        let accounts = flight.seat.accounts();
        assert!(accounts.seat("disk").is_none(), "A1: two are at the device");
        drop(flight);
        assert!(accounts.seat("disk").is_some());
    }

    #[test]
    fn an_export_takes_its_part_and_leaves_the_rest() {
        let accounts = Arc::new(Accounts::new(2, 4 * MIB, 6 * MIB));
        let flight = |export| Flight::new(256, 64 * MIB, accounts.seat(export).expect("a seat"));
        let [stuck, too, other] = [flight("stuck"), flight("stuck"), flight("other")];
        assert!(accounts.seat("stuck").is_none());
        let first = reserve(&stuck, 2 * MIB).expect("of its part");
        let second = reserve(&too, 2 * MIB).expect("of its part");
        assert!(reserve(&too, 2 * MIB).is_none());
        let rest = reserve(&other, 2 * MIB).expect("not all of it is stuck's");
        assert!(reserve(&other, 2 * MIB).is_none(), "no more is shared");
        assert_eq!(other.seat.left(), 2 * MIB, "who waits holds nothing");
        drop([first, second, rest]);
        assert_eq!((stuck.seat.left(), other.seat.left()), (4 * MIB, 4 * MIB));
    }

    #[test]
    fn who_waits_for_the_pool_goes_on_when_its_own_is_free_again() {
        let [flight, other] = <[Flight; 2]>::try_from(flights(2, MIB)).expect("two");
        let _taken = reserve(&other, 2 * MIB).expect("takes what is shared");
        let own = reserve(&flight, MIB).expect("its own");
        let mut waiting = pin!(flight.reserve(read(4096)));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(context).is_pending());
        drop(own);
        assert!(waiting.as_mut().poll(context).is_ready());
    }
}
