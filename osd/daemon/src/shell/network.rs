//! The shell's connections: those that others opened, and its links to other OSDs.

use super::{
    ACCEPT_PAUSE, CLOSING_TIME, CONNECTIONS_MAX, Core, GREETING_TIME, LinkState, QUEUED_BYTES_ALL, QUEUED_BYTES_MAX,
    QUEUED_BYTES_PAUSE, Shell, Tag, ToControl,
};
use crate::clock;
use crate::connection::{Connection, Role};
use crate::counters::add;
use crate::ring::{Descriptor, Done, Op};
use ashlar_osd_core::{ConnId, Event};
use ashlar_types::{BootId, OsdId};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl<C: Core> Shell<C> {
    // ---- Connections.

    pub(super) fn accept(&mut self) {
        self.accept_again_at = None;
        self.ring.submit(Tag::Accept, Op::Accept { listener: self.listener.clone() });
    }

    pub(super) fn on_accepted(&mut self, result: io::Result<Done>) {
        match result {
            Ok(Done::Accepted(socket)) if self.connections.len() < CONNECTIONS_MAX => {
                add(&self.shared.counters.connections_accepted_total, 1);
                self.add_connection(Role::Inbound, Arc::new(socket));
                self.accept();
            }
            Ok(_) => {
                add(&self.shared.counters.connections_refused_total, 1);
                tracing::warn!(osd = self.osd.0, open = self.connections.len(), "too many connections: one is refused");
                self.accept();
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => self.accept(),
            Err(error) => {
                add(&self.shared.counters.connections_refused_total, 1);
                tracing::warn!(osd = self.osd.0, %error, "a connection could not be accepted");
                self.accept_again_at = Some(self.now + ACCEPT_PAUSE);
            }
        }
    }

    fn add_connection(&mut self, role: Role, socket: Descriptor) -> u64 {
        self.last_key += 1;
        let key = self.last_key;
        let until = self.now + GREETING_TIME;
        self.connections.insert(key, Connection::new(role, socket, self.cluster, until));
        self.deadlines.insert((until, key));
        self.shared.counters.connections_open.store(self.connections.len() as u64, Ordering::Relaxed);
        self.receive(key);
        key
    }

    /// Goes on reading, unless the peer leaves too many replies unread. Replies on a link are read in any case: two OSDs that
    /// each wait for the other to read would wait forever.
    pub(super) fn receive(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let is_paused = connection.role == Role::Inbound && connection.queued_bytes() > QUEUED_BYTES_PAUSE;
        if !is_paused && let Some(op) = connection.receive() {
            self.ring.submit(Tag::Receive(key), op);
        }
    }

    pub(super) fn on_received(&mut self, key: u64, result: io::Result<Done>) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if !connection.is_usable() {
            return self.forget_if_over(key);
        }
        match result {
            Ok(Done::Bytes(0)) => return self.end(key, "ended by the peer"),
            Ok(Done::Bytes(bytes)) => add(&self.shared.counters.bytes_received_total, bytes as u64),
            Ok(Done::Accepted(_)) => unreachable!("a receive gives bytes"),
            Err(error) => return self.end(key, &error.to_string()),
        }
        loop {
            match connection.next() {
                Ok(Some(message)) => {
                    let event = match connection.role {
                        Role::Inbound => Event::Received(ConnId(key), message),
                        Role::Link(osd) => Event::LinkReceived(osd, message),
                    };
                    add(&self.shared.counters.messages_received_total, 1);
                    add(&self.shared.counters.events_total, 1);
                    self.core.step(self.now, event, &mut self.actions);
                }
                Ok(None) => return self.receive(key),
                Err(error) => {
                    add(&self.shared.counters.connections_malformed_total, 1);
                    tracing::warn!(osd = self.osd.0, peer = connection.peer, %error, "malformed frame: the connection is closed");
                    return self.end(key, "malformed frame");
                }
            }
        }
    }

    pub(super) fn on_sent(&mut self, key: u64, result: io::Result<Done>) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let before = connection.queued_bytes();
        connection.on_sent();
        self.queued_bytes -= before - connection.queued_bytes();
        match result {
            Ok(Done::Bytes(bytes)) => add(&self.shared.counters.bytes_sent_total, bytes as u64),
            Ok(Done::Accepted(_)) => unreachable!("a send gives bytes"),
            Err(error) if connection.is_usable() => return self.end(key, &error.to_string()),
            Err(_) => self.kill(key),
        }
        self.touched.push(key);
        self.receive(key);
        self.forget_if_over(key);
    }

    pub(super) fn push(&mut self, key: u64, message: &ashlar_wire::Message) {
        let Some(connection) = self.connections.get_mut(&key).filter(|c| c.is_usable()) else { return };
        let before = connection.queued_bytes();
        connection.push(message);
        let queued = connection.queued_bytes();
        self.queued_bytes += queued - before;
        add(&self.shared.counters.messages_sent_total, 1);
        self.touched.push(key);
        let most = if self.queued_bytes > QUEUED_BYTES_ALL { QUEUED_BYTES_PAUSE } else { QUEUED_BYTES_MAX };
        if queued > most {
            add(&self.shared.counters.connections_stalled_total, 1);
            tracing::warn!(
                osd = self.osd.0,
                peer = connection.peer,
                queued,
                "the peer does not read: the connection is closed"
            );
            self.end(key, "the peer does not read");
        }
    }

    /// Starts the sends of [`Shell::flush_touched`] on the connections that others opened.
    pub(super) fn answer(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        let is_inbound = |key: &u64| self.connections.get(key).is_some_and(|c| c.role == Role::Inbound);
        let (mut inbound, others): (Vec<u64>, Vec<u64>) = touched.drain(..).partition(is_inbound);
        self.touched = others;
        if inbound.is_empty() {
            return;
        }
        self.core.perf().on_answered(clock::now());
        inbound.sort_unstable();
        inbound.dedup();
        inbound.into_iter().for_each(|key| self.send(key));
    }

    /// Starts a send for each connection that has something to say and none under way.
    pub(super) fn flush_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for key in touched.drain(..) {
            self.send(key);
        }
        // What ends a connection touches others, at the next batch.
        touched.append(&mut self.touched);
        self.touched = touched;
    }

    fn send(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let before = connection.queued_bytes();
        let result = connection.send();
        let after = connection.queued_bytes();
        let has_said_all = connection.has_said_all();
        self.queued_bytes -= before - after;
        match result {
            Ok((bytes, op)) => {
                add(&self.shared.counters.sends_total, u64::from(bytes > 0));
                add(&self.shared.counters.bytes_sent_total, bytes as u64);
                match op {
                    Some(op) => self.ring.submit(Tag::Send(key), op),
                    None if has_said_all => self.kill(key),
                    // It may have been paused while too much was queued.
                    None => self.receive(key),
                }
            }
            Err(error) => self.end(key, &error.to_string()),
        }
    }

    /// A connection broke or must not go on: tells the core, and ends it.
    pub(super) fn end(&mut self, key: u64, why: &str) {
        let Some(connection) = self.connections.get(&key) else { return };
        tracing::debug!(osd = self.osd.0, peer = connection.peer, role = ?connection.role, why, "connection ends");
        if connection.is_usable() {
            match connection.role {
                Role::Inbound if connection.is_greeted() => self.deferred.push(Event::Closed(ConnId(key))),
                Role::Inbound => {}
                Role::Link(osd) => self.link_down(osd),
            }
        }
        self.kill(key);
    }

    pub(super) fn kill(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let before = connection.queued_bytes();
        connection.kill();
        self.queued_bytes -= before - connection.queued_bytes();
        self.forget_if_over(key);
    }

    fn forget_if_over(&mut self, key: u64) {
        if self.connections.get(&key).is_some_and(Connection::is_over) {
            self.connections.remove(&key);
            self.shared.counters.connections_open.store(self.connections.len() as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn close_when_sent(&mut self, key: u64) {
        if let Some(connection) = self.connections.get_mut(&key).filter(|c| c.is_usable()) {
            let until = self.now + CLOSING_TIME;
            connection.close_when_sent(until);
            self.deadlines.insert((until, key));
            self.touched.push(key);
        }
    }

    // ---- Links to other OSDs.

    pub(super) fn link(&mut self, osd: OsdId, boot: BootId, address: String) {
        self.last_serial += 1;
        let serial = self.last_serial;
        if let Some(key) = self.links.insert(osd, LinkState { boot, serial, key: None }).and_then(|old| old.key) {
            self.kill(key);
        }
        if !self.tell(ToControl::Connect { osd, serial, address }) {
            self.link_down(osd);
        }
    }

    pub(super) fn on_connected(&mut self, osd: OsdId, serial: u64, result: io::Result<OwnedFd>) {
        if self.links.get(&osd).is_none_or(|link| link.serial != serial) {
            return; // another attempt has replaced this one
        }
        match result {
            Ok(socket) => {
                let key = self.add_connection(Role::Link(osd), Arc::new(socket));
                if let Some(link) = self.links.get_mut(&osd) {
                    link.key = Some(key);
                }
                self.tell(ToControl::Trust(osd));
                self.event(Event::LinkUp(osd));
            }
            Err(error) => {
                tracing::debug!(osd = self.osd.0, to = osd.0, %error, "no connection");
                self.link_down(osd);
            }
        }
    }

    /// The newest link to this OSD is no more.
    fn link_down(&mut self, osd: OsdId) {
        if let Some(link) = self.links.remove(&osd) {
            self.tell(ToControl::Suspect(osd, link.boot));
            self.deferred.push(Event::LinkDown(osd));
        }
    }
}
