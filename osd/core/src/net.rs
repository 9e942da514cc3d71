//! Who is connected: connections that others opened to this OSD, and the links that it opened to other OSDs.
//! N1: at most one connection of a session, or of another OSD, is live; a newer one closes the older (R10).
//! N2: requests to another OSD leave only on a ready link, after the hello was answered by the boot that was meant.
//! N3: a link on which something was asked and nothing at all is heard is given up. A frame whose length was damaged on the way makes its
//! receiver wait for megabytes that nobody sends; whatever comes behind it would be lost in there.
//! Called by `Osd`. Knows nothing of placement groups.

use crate::{Action, ConnId};
use ashlar_types::view::{ClusterView, Fences, OsdInfo};
use ashlar_types::{BootId, ClusterId, Duration, LayerId, OsdId, SessionId, StackRevision, Tick};
use ashlar_wire::{ClientHello, Hello, HelloReply, HelloStatus, Message, PeerHello, STACKS_KEPT, Stack};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long after a failed attempt a link is tried again.
const LINK_RETRY: Duration = Duration::from_millis(30);
/// How long a link may take to be ready before it is opened anew.
const LINK_PATIENCE: Duration = Duration::from_millis(1000);
/// How long a ready link may be silent after something was asked. Members grant leases whatever their disks do; only a joiner with a slow
/// disk may have nothing to say, and its join is begun anew after that time too.
const LINK_SILENCE: Duration = Duration::from_millis(5000);
/// Sessions without a connection that are remembered, the last ones to end. What an older connection of a forgotten session still brings
/// is met by the retry ids and by `lowest_unanswered`, which are durable.
const ENDED_SESSIONS_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Osd { id: OsdId, boot: BootId },
    Client(Client),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub hello: ClientHello,
    /// What it has named lately, by revision.
    stacks: Vec<NamedStack>,
}

/// The stack that a client means by a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedStack {
    revision: StackRevision,
    pub top: LayerId,
    pub below: Below,
}

/// The layers below a top one, uppermost first; `None` where there are none.
pub(crate) type Below = Option<Arc<[LayerId]>>;

impl Client {
    pub(crate) fn stack(&self, revision: StackRevision) -> Option<&NamedStack> {
        self.stacks.iter().find(|stack| stack.revision == revision)
    }

    fn name(&mut self, stack: &Stack) {
        let Some((top, below)) = stack.layers.split_first() else { return };
        self.stacks.retain(|known| known.revision != stack.revision);
        if self.stacks.len() == STACKS_KEPT {
            self.stacks.remove(0);
        }
        let below = if below.is_empty() { None } else { Some(below.into()) };
        self.stacks.push(NamedStack { revision: stack.revision, top: *top, below });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    Idle { retry_at: Tick },
    Connecting { since: Tick },
    Greeting { since: Tick },
    Ready,
}

#[derive(Debug)]
struct Link {
    boot: BootId,
    state: LinkState,
    /// Since when something is asked and nothing was heard (N3).
    asked: Option<Tick>,
}

#[derive(Debug)]
struct Session {
    /// The number of its newest connection. It outlives that, so that an older one is still known as older.
    connection: u64,
    conn: ConnId,
    client: ClientHello,
    /// Its place among those without a connection.
    ended: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Net {
    me: OsdId,
    boot: BootId,
    cluster: ClusterId,
    conns: BTreeMap<ConnId, Peer>,
    sessions: BTreeMap<SessionId, Session>,
    /// Sessions without a connection, in the order in which they lost it.
    ended: BTreeMap<u64, SessionId>,
    last_ended: u64,
    osds: BTreeMap<OsdId, (BootId, u64, ConnId)>,
    links: BTreeMap<OsdId, Link>,
    last_connection: u64,
    /// Links that something was sent on since the last poll; commits ride along.
    touched: BTreeSet<OsdId>,
}

impl Net {
    pub(crate) fn new(me: OsdId, boot: BootId, cluster: ClusterId) -> Net {
        Net {
            me,
            boot,
            cluster,
            conns: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ended: BTreeMap::new(),
            last_ended: 0,
            osds: BTreeMap::new(),
            links: BTreeMap::new(),
            last_connection: 0,
            touched: BTreeSet::new(),
        }
    }

    /// Plant `BOOT_ID_IGNORED`: says the name of another process of this OSD from now on.
    pub(crate) fn pose_as(&mut self, boot: BootId) {
        self.boot = boot;
    }

    pub(crate) fn peer(&self, conn: ConnId) -> Option<&Peer> {
        self.conns.get(&conn)
    }

    /// Handles the first message of a connection. One that says hello again would be two peers, of which only the last is forgotten when it
    /// closes: it is closed now.
    pub(crate) fn on_hello(&mut self, conn: ConnId, hello: Hello, mounted: bool, actions: &mut Vec<Action>) {
        if self.conns.contains_key(&conn) {
            self.on_closed(conn);
            actions.push(Action::Close(conn));
            return;
        }
        let status = self.judge(&hello, mounted);
        let reply = HelloReply { osd: self.me, boot: self.boot, status };
        actions.push(Action::Send(conn, Message::HelloReply(reply)));
        if status != HelloStatus::Welcome {
            actions.push(Action::Close(conn));
            return;
        }
        let older = match &hello.from {
            PeerHello::Osd { id, boot } => {
                self.osds.insert(*id, (*boot, hello.connection, conn)).map(|(_, _, older)| older)
            }
            PeerHello::Client(client) => {
                let session = Session { connection: hello.connection, conn, client: client.clone(), ended: None };
                let older = self.sessions.insert(client.session, session);
                if let Some(at) = older.as_ref().and_then(|s| s.ended) {
                    self.ended.remove(&at);
                }
                older.map(|s| s.conn)
            }
        };
        if let Some(older) = older.filter(|o| *o != conn) {
            self.conns.remove(&older);
            actions.push(Action::Close(older));
        }
        let peer = match hello.from {
            PeerHello::Osd { id, boot } => Peer::Osd { id, boot },
            PeerHello::Client(hello) => Peer::Client(Client { hello, stacks: Vec::new() }),
        };
        self.conns.insert(conn, peer);
    }

    pub(crate) fn on_stack(&mut self, conn: ConnId, stack: &Stack) {
        if let Some(Peer::Client(client)) = self.conns.get_mut(&conn) {
            client.name(stack);
        }
    }

    fn judge(&self, hello: &Hello, mounted: bool) -> HelloStatus {
        if hello.cluster != self.cluster {
            return HelloStatus::WrongCluster;
        }
        if hello.to != self.me {
            return HelloStatus::WrongOsd;
        }
        if !mounted {
            return HelloStatus::Starting;
        }
        let stale = match &hello.from {
            PeerHello::Osd { id, boot } => {
                self.osds.get(id).is_some_and(|(known, newest, _)| known == boot && hello.connection <= *newest)
            }
            PeerHello::Client(client) => {
                self.sessions.get(&client.session).is_some_and(|s| hello.connection <= s.connection)
            }
        };
        if stale { HelloStatus::Stale } else { HelloStatus::Welcome }
    }

    pub(crate) fn on_closed(&mut self, conn: ConnId) {
        match self.conns.remove(&conn) {
            Some(Peer::Osd { id, .. }) if self.osds.get(&id).is_some_and(|(_, _, c)| *c == conn) => {
                self.osds.remove(&id);
            }
            Some(Peer::Client(client)) => self.end_session(client.hello.session, conn),
            Some(_) | None => {}
        }
    }

    fn end_session(&mut self, id: SessionId, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&id).filter(|s| s.conn == conn) else { return };
        self.last_ended += 1;
        session.ended = Some(self.last_ended);
        self.ended.insert(self.last_ended, id);
        if self.ended.len() > ENDED_SESSIONS_MAX
            && let Some((_, oldest)) = self.ended.pop_first()
        {
            self.sessions.remove(&oldest);
        }
    }

    /// Forgets the sessions that are refused from now on.
    pub(crate) fn drop_fenced_sessions(&mut self, fences: &Fences) {
        let ended = &mut self.ended;
        self.sessions.retain(|_, session| {
            let c = &session.client;
            let is_over = fences.fences(c.volume, c.attachment, c.generation);
            if let Some(at) = session.ended.filter(|_| is_over) {
                ended.remove(&at);
            }
            !is_over
        });
    }

    pub(crate) fn reply(&self, conn: ConnId, message: Message, actions: &mut Vec<Action>) {
        if self.conns.contains_key(&conn) {
            actions.push(Action::Send(conn, message));
        }
    }

    /// Sees to it that there is a link to this OSD, or will be. Returns when to look again, if it isn't ready.
    pub(crate) fn want(
        &mut self,
        osd: OsdId,
        now: Tick,
        view: &ClusterView,
        actions: &mut Vec<Action>,
    ) -> Option<Tick> {
        assert!(osd != self.me, "N2: an OSD has no link to itself");
        let info = view.osds.get(&osd).filter(|info| info.up)?;
        match self.links.get(&osd) {
            Some(link) if link.boot == info.boot => match link.state {
                LinkState::Ready => return None,
                LinkState::Connecting { since } | LinkState::Greeting { since } if now < since + LINK_PATIENCE => {
                    return Some(since + LINK_PATIENCE);
                }
                LinkState::Idle { retry_at } if now < retry_at => return Some(retry_at),
                _ => {}
            },
            _ => {}
        }
        self.open(info, now, actions);
        Some(now + LINK_PATIENCE)
    }

    fn open(&mut self, info: &OsdInfo, now: Tick, actions: &mut Vec<Action>) {
        self.links.insert(info.id, Link { boot: info.boot, state: LinkState::Connecting { since: now }, asked: None });
        actions.push(Action::Link { osd: info.id, boot: info.boot, address: info.address.clone() });
    }

    pub(crate) fn on_link_up(&mut self, osd: OsdId, now: Tick, actions: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(&osd) else { return };
        if !matches!(link.state, LinkState::Connecting { .. }) {
            return;
        }
        link.state = LinkState::Greeting { since: now };
        self.last_connection += 1;
        let hello = Hello {
            cluster: self.cluster,
            to: osd,
            from: PeerHello::Osd { id: self.me, boot: self.boot },
            connection: self.last_connection,
        };
        actions.push(Action::LinkSend(osd, Message::Hello(hello)));
    }

    /// Returns whether the link was ready.
    pub(crate) fn on_link_down(&mut self, osd: OsdId, now: Tick) -> bool {
        let Some(link) = self.links.get_mut(&osd) else { return false };
        let was_ready = link.state == LinkState::Ready;
        link.state = LinkState::Idle { retry_at: now + LINK_RETRY };
        was_ready
    }

    /// Returns whether the link is ready now.
    pub(crate) fn on_hello_reply(&mut self, osd: OsdId, reply: &HelloReply, now: Tick) -> bool {
        let Some(link) = self.links.get_mut(&osd) else { return false };
        if !matches!(link.state, LinkState::Greeting { .. }) {
            return false;
        }
        let right = reply.status == HelloStatus::Welcome && reply.osd == osd && reply.boot == link.boot;
        link.state = if right { LinkState::Ready } else { LinkState::Idle { retry_at: now + LINK_RETRY } };
        right
    }

    pub(crate) fn is_ready(&self, osd: OsdId) -> bool {
        self.links.get(&osd).is_some_and(|link| link.state == LinkState::Ready)
    }

    /// Sends a request on a ready link; else drops it. Whoever has requests outstanding sends them again when the link is ready (N2).
    pub(crate) fn send(&mut self, osd: OsdId, message: Message, now: Tick, actions: &mut Vec<Action>) {
        if let Some(link) = self.links.get_mut(&osd).filter(|link| link.state == LinkState::Ready) {
            if message.is_answered() {
                link.asked.get_or_insert(now);
            }
            self.touched.insert(osd);
            actions.push(Action::LinkSend(osd, message));
        }
    }

    /// Something arrived on a link.
    pub(crate) fn on_heard(&mut self, osd: OsdId) {
        if let Some(link) = self.links.get_mut(&osd) {
            link.asked = None;
        }
    }

    /// Links to be given up (N3).
    pub(crate) fn silent(&self, now: Tick) -> Vec<OsdId> {
        let is_silent =
            |link: &Link| link.state == LinkState::Ready && link.asked.is_some_and(|since| since + LINK_SILENCE <= now);
        self.links.iter().filter(|(_, link)| is_silent(link)).map(|(osd, _)| *osd).collect()
    }

    pub(crate) fn is_touched(&self, osd: OsdId) -> bool {
        self.touched.contains(&osd)
    }

    pub(crate) fn clear_touched(&mut self) {
        self.touched.clear();
    }

    /// Gives up a link that seems to damage what it carries; the shell drops it, `want` opens a new one.
    pub(crate) fn reset(&mut self, osd: OsdId, now: Tick) {
        if let Some(link) = self.links.get_mut(&osd) {
            link.state = LinkState::Idle { retry_at: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::{AttachmentId, Epoch, Generation, IdSet, PgId, VolumeId};
    use ashlar_wire::{Commit, CreditRequest};

    const PEER: OsdId = OsdId(2);

    fn ready_link() -> Net {
        let mut net = Net::new(OsdId(1), BootId(1), ClusterId(1));
        let link = Link { boot: BootId(2), state: LinkState::Ready, asked: None };
        net.links.insert(PEER, link);
        net
    }

    fn question() -> Message {
        Message::CreditRequest(CreditRequest {
            pg: PgId::default(),
            epoch: Epoch(1),
            wanted_total: 1,
            is_return: false,
        })
    }

    #[test]
    fn a_link_that_answers_nothing_is_given_up() {
        let mut net = ready_link();
        let asked = Tick(1_000_000);
        net.send(PEER, question(), asked, &mut Vec::new());
        net.send(PEER, question(), asked + LINK_SILENCE, &mut Vec::new());
        assert_eq!(net.silent(Tick((asked + LINK_SILENCE).0 - 1)), []);
        assert_eq!(net.silent(asked + LINK_SILENCE), [PEER]);
        net.on_link_down(PEER, asked + LINK_SILENCE);
        assert_eq!(net.silent(asked + LINK_SILENCE), []);
    }

    #[test]
    fn a_link_that_was_asked_nothing_may_be_silent() {
        let mut net = ready_link();
        let told = Tick(1_000_000);
        let commit = Commit { pg: PgId::default(), epoch: Epoch(1), committed: vec![] };
        net.send(PEER, Message::Commit(commit), told, &mut Vec::new());
        assert_eq!(net.silent(told + LINK_SILENCE), []);
        net.send(PEER, question(), told, &mut Vec::new());
        net.on_heard(PEER);
        assert_eq!(net.silent(told + LINK_SILENCE), []);
    }

    struct Rig {
        net: Net,
        last_conn: u64,
    }

    impl Rig {
        fn new() -> Rig {
            Rig { net: Net::new(OsdId(1), BootId(1), ClusterId(7)), last_conn: 0 }
        }

        /// Says hello; the connection, if it was welcome.
        fn hello(&mut self, session: u64, connection: u64) -> Option<ConnId> {
            self.last_conn += 1;
            let conn = ConnId(self.last_conn);
            self.hello_on(conn, session, connection);
            self.net.peer(conn).is_some().then_some(conn)
        }

        fn hello_on(&mut self, conn: ConnId, session: u64, connection: u64) {
            let client = ClientHello {
                session: SessionId(session),
                volume: VolumeId(session % 10),
                attachment: AttachmentId(session),
                generation: Generation(1),
                read_only: false,
            };
            let hello = Hello { cluster: ClusterId(7), to: OsdId(1), from: PeerHello::Client(client), connection };
            self.net.on_hello(conn, hello, true, &mut vec![]);
        }
    }

    #[test]
    fn sessions_that_never_come_back_are_forgotten() {
        let mut rig = Rig::new();
        let living: Vec<ConnId> = (1..100).filter_map(|s| rig.hello(s, 5)).collect();
        for session in 1000..51_000 {
            let conn = rig.hello(session, 5).expect("welcome");
            rig.net.on_closed(conn);
        }
        assert!(rig.net.sessions.len() <= living.len() + ENDED_SESSIONS_MAX, "{}", rig.net.sessions.len());
        assert_eq!(rig.net.ended.len(), ENDED_SESSIONS_MAX);
        assert_eq!(rig.hello(50_999, 4), None, "an older connection of one that ended lately");
        assert_eq!(rig.hello(50, 4), None, "an older connection of one that lives");
        assert!(living.iter().all(|conn| rig.net.peer(*conn).is_some()));
    }

    #[test]
    fn a_connection_that_says_hello_twice_is_closed_with_all_that_it_said() {
        let mut rig = Rig::new();
        for session in 1..=2 * ENDED_SESSIONS_MAX as u64 {
            let conn = rig.hello(session, 1).expect("welcome");
            rig.hello_on(conn, 100_000 + session, 1);
            assert!(rig.net.peer(conn).is_none(), "closed");
            rig.net.on_closed(conn);
        }
        assert_eq!(rig.net.sessions.len(), ENDED_SESSIONS_MAX);
        assert_eq!(rig.net.ended.len(), ENDED_SESSIONS_MAX);
    }

    #[test]
    fn a_session_that_comes_back_is_not_counted_as_ended() {
        let mut rig = Rig::new();
        for connection in 1..50 {
            let conn = rig.hello(3, connection).expect("welcome");
            assert!(rig.net.ended.is_empty());
            rig.net.on_closed(conn);
            assert_eq!(rig.net.ended.len(), 1);
        }
        rig.net.drop_fenced_sessions(&Fences { gone: IdSet::range(VolumeId(3), VolumeId(3)), ..Fences::default() });
        assert!(rig.net.ended.is_empty() && rig.net.sessions.is_empty());
    }
}
