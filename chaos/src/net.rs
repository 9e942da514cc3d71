//! The network: connections that deliver in order, late, or not at all.
//!
//! N1: inside one connection, what arrives is a prefix of what was sent, in order: TCP promises that and no more.
//! N2: two connections of the same two processes know nothing of each other. What was sent on an older one may arrive
//! after the newer one stands: that is how real messages are repeated and change their order.
//! N3: a cut is in one direction. What is sent into it waits (TCP repeats it) until the cut ends or the sender gives the
//! connection up; the other end may learn of that much later.
//! N4: what is said travels as the bytes of its frames. Who cannot read them drops the connection, as the daemons do.

mod frames;

use crate::clock::{Instant, MS};
use crate::queue::Queue;
use crate::rng::Rng;
use ashlar_types::{ClusterId, MdsId, OsdId};
use ashlar_wire::{Decoder, Message};
use frames::Pieces;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProcId {
    Mds(MdsId),
    Osd(OsdId),
    Client(u32),
    /// What a clone's client reads beside the clone, in the same process.
    Base(u32),
    Worker(u32),
    /// Who creates pools and attaches volumes.
    Operator,
}

/// What the network tells a process.
#[derive(Clone, Debug)]
pub enum NetEvent {
    LinkUp(OsdId),
    LinkDown(OsdId),
    LinkReceived(OsdId, Message),
    Received(u64, Message),
    Closed(u64),
}

/// What the network wants to be called back for.
#[derive(Clone, Copy, Debug)]
pub enum NetTimer {
    Arrive(u64),
    Refuse(u64),
    Pump(u64, Way),
    GiveUp(u64, Way),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

#[derive(Debug)]
enum Item {
    Established,
    Bytes(Pieces),
    End,
    /// The receiver's own patience has ended: no message, so no cut stops it.
    TimedOut,
}

#[derive(Debug, Default)]
struct Stream {
    items: VecDeque<(Instant, Item)>,
    last_arrival: Instant,
    held_until: Instant,
    is_giving_up: bool,
    /// The receiver heard of the end, or is no more.
    is_deaf: bool,
    /// The receiver's, once something has arrived.
    decoder: Option<Box<Decoder>>,
}

#[derive(Debug)]
struct Conn {
    client: ProcId,
    server: OsdId,
    is_established: bool,
    to_server: Stream,
    to_client: Stream,
}

impl Conn {
    fn stream(&mut self, way: Way) -> &mut Stream {
        match way {
            Way::ToServer => &mut self.to_server,
            Way::ToClient => &mut self.to_client,
        }
    }

    fn ends(&self, way: Way) -> (ProcId, ProcId) {
        match way {
            Way::ToServer => (self.client, ProcId::Osd(self.server)),
            Way::ToClient => (ProcId::Osd(self.server), self.client),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct NetProfile {
    /// Typical one-way delay in microseconds.
    pub delay: u64,
    /// How often, in a thousand, the rest of an abandoned connection arrives very late.
    pub late_rest_permille: u64,
    /// How long a sender goes on into a cut, in microseconds.
    pub patience: u64,
    /// In how many of a million frames a bit flips.
    pub flips_per_million: u64,
}

#[derive(Debug)]
pub struct Net {
    rng: Rng,
    cluster: ClusterId,
    pub profile: NetProfile,
    conns: BTreeMap<u64, Conn>,
    links: BTreeMap<(ProcId, OsdId), u64>,
    cuts: BTreeSet<(ProcId, ProcId)>,
    last_conn: u64,
    /// Whom to tell what.
    pub told: Vec<(ProcId, NetEvent)>,
    /// Frames that were damaged, and connections that were dropped for what they brought.
    pub flipped: u64,
    pub malformed: u64,
    /// For the event log.
    pub notes: Vec<String>,
    timers: Vec<(Instant, NetTimer)>,
}

impl Net {
    pub fn new(rng: Rng, cluster: ClusterId, profile: NetProfile) -> Net {
        Net {
            rng,
            cluster,
            profile,
            conns: BTreeMap::new(),
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            last_conn: 0,
            told: Vec::new(),
            flipped: 0,
            malformed: 0,
            notes: Vec::new(),
            timers: Vec::new(),
        }
    }

    /// Moves the call-backs wanted since the last call into the queue.
    pub fn schedule<T>(&mut self, queue: &mut Queue<T>, wrap: impl Fn(NetTimer) -> T) {
        for (at, timer) in self.timers.drain(..) {
            queue.put(at, wrap(timer));
        }
    }

    pub fn delay(&mut self) -> u64 {
        self.rng.delay(self.profile.delay)
    }

    pub fn is_cut(&self, from: ProcId, to: ProcId) -> bool {
        self.cuts.contains(&(from, to))
    }

    pub fn cut(&mut self, from: ProcId, to: ProcId) {
        self.cuts.insert((from, to));
    }

    pub fn heal(&mut self, now: Instant, from: ProcId, to: ProcId) {
        self.cuts.remove(&(from, to));
        for (id, conn) in &self.conns {
            for way in [Way::ToServer, Way::ToClient] {
                if conn.ends(way) == (from, to) {
                    self.timers.push((now + 1, NetTimer::Pump(*id, way)));
                }
            }
        }
    }

    pub fn cuts(&self) -> Vec<(ProcId, ProcId)> {
        self.cuts.iter().copied().collect()
    }

    /// Opens a connection, abandoning the one that stands.
    pub fn open(&mut self, now: Instant, client: ProcId, server: OsdId) {
        if let Some(older) = self.links.remove(&(client, server)) {
            self.abandon(now, older, Way::ToServer);
        }
        self.last_conn += 1;
        let id = self.last_conn;
        self.links.insert((client, server), id);
        let conn =
            Conn { client, server, is_established: false, to_server: Stream::default(), to_client: Stream::default() };
        self.conns.insert(id, conn);
        let target = ProcId::Osd(server);
        let timer = if self.is_cut(client, target) || self.is_cut(target, client) {
            (now + self.profile.patience, NetTimer::Refuse(id))
        } else {
            (now + self.delay(), NetTimer::Arrive(id))
        };
        self.timers.push(timer);
    }

    /// The client sends on its link; lost if there is none.
    pub fn send_on_link(&mut self, now: Instant, client: ProcId, server: OsdId, message: &Message) {
        if let Some(id) = self.links.get(&(client, server)).copied() {
            self.send(now, id, Way::ToServer, message);
        }
    }

    pub fn send_on_conn(&mut self, now: Instant, id: u64, message: &Message) {
        self.send(now, id, Way::ToClient, message);
    }

    fn send(&mut self, now: Instant, id: u64, way: Way, message: &Message) {
        if self.conns.get_mut(&id).is_none_or(|conn| conn.stream(way).is_deaf) {
            return;
        }
        let (parts, is_damaged) = frames::send(message, self.cluster, &mut self.rng, self.profile.flips_per_million);
        if is_damaged {
            self.flipped += 1;
            self.notes.push(format!("a bit of a frame on connection {id} flips"));
        }
        for part in parts {
            self.push(now, id, way, Item::Bytes(part));
        }
    }

    /// The server closes a connection.
    pub fn close(&mut self, now: Instant, id: u64) {
        self.abandon(now, id, Way::ToClient);
    }

    /// A connection breaks: some of what is on the way is lost, both ends hear of it.
    pub fn break_random(&mut self, now: Instant) {
        let ids: Vec<u64> = self.conns.iter().filter(|(_, c)| c.is_established).map(|(id, _)| *id).collect();
        let Some(id) = self.rng.choose(&ids).copied() else { return };
        self.break_conn(now, id);
    }

    /// Breaks every connection between two processes.
    pub fn break_between(&mut self, now: Instant, a: ProcId, b: ProcId) {
        let ends = [(a, b), (b, a)];
        let ids: Vec<u64> =
            self.conns.iter().filter(|(_, c)| ends.contains(&c.ends(Way::ToServer))).map(|(id, _)| *id).collect();
        for id in ids {
            self.break_conn(now, id);
        }
    }

    fn break_conn(&mut self, now: Instant, id: u64) {
        for way in [Way::ToServer, Way::ToClient] {
            self.lose_suffix(id, way);
            self.push(now, id, way, Item::End);
        }
    }

    /// Holds everything on the way to and from this process until then.
    pub fn hold(&mut self, process: ProcId, until: Instant) {
        for (id, conn) in &mut self.conns {
            for way in [Way::ToServer, Way::ToClient] {
                if conn.ends(way).0 == process {
                    let stream = conn.stream(way);
                    stream.held_until = stream.held_until.max(until);
                    self.timers.push((until, NetTimer::Pump(*id, way)));
                }
            }
        }
    }

    /// A process has ended. `is_silent`: its machine too, so that its peers hear nothing until they lose patience.
    pub fn on_process_end(&mut self, now: Instant, process: ProcId, is_silent: bool) {
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            for way in [Way::ToServer, Way::ToClient] {
                let (from, to) = conn.ends(way);
                if to == process {
                    conn.stream(way).is_deaf = true;
                    conn.stream(way).items.clear();
                }
                if from == process {
                    if self.rng.permille(500) {
                        let keep = self.rng.index(conn.stream(way).items.len() + 1);
                        conn.stream(way).items.truncate(keep);
                    }
                    let extra =
                        if is_silent { self.rng.between(self.profile.patience, self.profile.patience * 3) } else { 0 };
                    let at = conn.stream(way).last_arrival.max(now + extra) + self.rng.delay(self.profile.delay);
                    conn.stream(way).items.push_back((at, Item::End));
                    self.timers.push((at, NetTimer::Pump(id, way)));
                }
            }
        }
        self.links.retain(|(client, _), _| *client != process);
    }

    /// The sender of this way goes; what it sent may still arrive, all or a part, soon or very late.
    fn abandon(&mut self, now: Instant, id: u64, way: Way) {
        let late = self.rng.permille(self.profile.late_rest_permille);
        if late {
            let until = now + self.rng.between(10 * MS, 1500 * MS);
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.stream(way).held_until = until;
            }
            self.timers.push((until, NetTimer::Pump(id, way)));
        } else if self.rng.permille(300) {
            self.lose_suffix(id, way);
        }
        self.push(now, id, way, Item::End);
        let back = if way == Way::ToServer { Way::ToClient } else { Way::ToServer };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.stream(back).is_deaf = true;
            conn.stream(back).items.clear();
            if way == Way::ToClient {
                return;
            }
            if !conn.is_established {
                self.conns.remove(&id);
            }
        }
    }

    fn lose_suffix(&mut self, id: u64, way: Way) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let stream = conn.stream(way);
        let keep = self.rng.index(stream.items.len() + 1);
        stream.items.truncate(keep);
    }

    fn push(&mut self, now: Instant, id: u64, way: Way, item: Item) {
        let delay = self.rng.delay(self.profile.delay);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let stream = conn.stream(way);
        if stream.is_deaf {
            return;
        }
        let at = (now + delay).max(stream.last_arrival);
        stream.last_arrival = at;
        stream.items.push_back((at, item));
        self.timers.push((at, NetTimer::Pump(id, way)));
    }

    pub fn on_timer(&mut self, now: Instant, timer: NetTimer, is_running: impl Fn(OsdId) -> bool) {
        match timer {
            NetTimer::Arrive(id) => {
                let Some(conn) = self.conns.get_mut(&id) else { return };
                if is_running(conn.server) {
                    conn.is_established = true;
                    self.push(now, id, Way::ToClient, Item::Established);
                } else {
                    self.timers.push((now + self.profile.delay, NetTimer::Refuse(id)));
                }
            }
            NetTimer::Refuse(id) => {
                let Some(conn) = self.conns.remove(&id) else { return };
                if self.links.get(&(conn.client, conn.server)) == Some(&id) {
                    self.links.remove(&(conn.client, conn.server));
                    self.told.push((conn.client, NetEvent::LinkDown(conn.server)));
                }
            }
            NetTimer::Pump(id, way) => self.pump(now, id, way),
            NetTimer::GiveUp(id, way) => self.on_give_up(now, id, way),
        }
    }

    fn pump(&mut self, now: Instant, id: u64, way: Way) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (from, to) = conn.ends(way);
        let (client, server) = (conn.client, conn.server);
        let is_cut = self.cuts.contains(&(from, to));
        loop {
            let stream = conn.stream(way);
            if now < stream.held_until {
                return;
            }
            if stream.items.front().is_none_or(|(at, _)| *at > now) {
                break;
            }
            if is_cut && !matches!(stream.items.front(), Some((_, Item::TimedOut))) {
                if !stream.is_giving_up {
                    stream.is_giving_up = true;
                    self.timers.push((now + self.profile.patience, NetTimer::GiveUp(id, way)));
                }
                return;
            }
            let Some((_, item)) = stream.items.pop_front() else { break };
            if stream.is_deaf {
                continue;
            }
            let is_current = self.links.get(&(client, server)) == Some(&id);
            let is_heard = way == Way::ToServer || is_current;
            let mut messages = Vec::new();
            match item {
                Item::Established => self.told.extend(is_heard.then_some((to, NetEvent::LinkUp(server)))),
                Item::Bytes(pieces) => {
                    let decoder = stream.decoder.get_or_insert_with(|| Box::new(Decoder::greeting_first(self.cluster)));
                    if let Err(error) = frames::receive(decoder, &pieces, &mut messages) {
                        self.malformed += 1;
                        self.notes.push(format!("{to:?} cannot read connection {id}: {error}"));
                        stream.is_deaf = true;
                    }
                }
                Item::End | Item::TimedOut => stream.is_deaf = true,
            }
            for message in messages.into_iter().filter(|_| is_heard) {
                let event = match way {
                    Way::ToServer => NetEvent::Received(id, message),
                    Way::ToClient => NetEvent::LinkReceived(server, message),
                };
                self.told.push((to, event));
            }
            if stream.is_deaf {
                stream.items.clear();
                match way {
                    Way::ToServer => self.told.push((to, NetEvent::Closed(id))),
                    Way::ToClient if is_current => {
                        self.links.remove(&(client, server));
                        self.told.push((to, NetEvent::LinkDown(server)));
                    }
                    Way::ToClient => {}
                }
            }
        }
        if conn.to_server.is_deaf && conn.to_client.is_deaf {
            self.conns.remove(&id);
        } else if conn.stream(way).is_deaf {
            // Who heard of the end closes its own side.
            let back = if way == Way::ToServer { Way::ToClient } else { Way::ToServer };
            self.push(now, id, back, Item::End);
        }
    }

    /// The sender has waited long enough for what it sent into a cut.
    fn on_give_up(&mut self, now: Instant, id: u64, way: Way) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let (from, to) = conn.ends(way);
        let (client, server) = (conn.client, conn.server);
        let stream = conn.stream(way);
        stream.is_giving_up = false;
        if !self.cuts.contains(&(from, to)) || stream.items.is_empty() {
            return;
        }
        stream.items.clear();
        // The receiver finds out by itself.
        let later = now + self.rng.between(self.profile.patience, self.profile.patience * 3);
        stream.items.push_back((later, Item::TimedOut));
        stream.held_until = later;
        self.timers.push((later, NetTimer::Pump(id, way)));
        let back = if way == Way::ToServer { Way::ToClient } else { Way::ToServer };
        let listener = conn.stream(back);
        let was_deaf = std::mem::replace(&mut listener.is_deaf, true);
        listener.items.clear();
        match way {
            _ if was_deaf => {}
            Way::ToServer => {
                if self.links.get(&(client, server)) == Some(&id) {
                    self.links.remove(&(client, server));
                    self.told.push((client, NetEvent::LinkDown(server)));
                }
            }
            Way::ToClient => self.told.push((ProcId::Osd(server), NetEvent::Closed(id))),
        }
    }
}

#[cfg(test)]
mod tests;
