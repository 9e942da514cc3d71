//! What the clients of a simulation asked and were told, in order; and its division into registers to be checked.

use super::Contradiction;
use super::register::{Access, RegisterOp, Value};
use super::search::Verdict;
use super::snapshots::{SnapshotRef, Snapshots, Written};
use crate::rng::mix;
use ashlar_types::{BLOCK_BYTES, SECTOR_BYTES};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub const SECTORS_PER_BLOCK: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;
const WORDS_PER_SECTOR: usize = SECTOR_BYTES as usize / 8;

/// An operation of the history, numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpRef(pub u64);

/// One attachment of one volume by one client process: what a fence ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientNumber(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    Read,
    Write,
    Zero,
}

#[derive(Clone, Debug)]
struct Operation {
    client: ClientNumber,
    kind: OpKind,
    volume: u32,
    first_sector: u64,
    sectors: u64,
    invoked: u64,
    /// `None`: not answered, or answered with an error, so that nobody knows.
    answered: Option<u64>,
    /// What a read saw, a value for each sector.
    seen: Vec<Value>,
    /// A read of a snapshot.
    snapshot: Option<SnapshotRef>,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    ops: Vec<Operation>,
    position: u64,
    fences: BTreeMap<ClientNumber, u64>,
    snapshots: Snapshots,
    /// Of volumes that are clones, what each was at first (C5).
    origins: BTreeMap<u32, SnapshotRef>,
    /// Sectors of volumes into which somebody was to write something, zeroes or not.
    touched: BTreeSet<(u32, u64)>,
    /// Found while the history was written down: garbage in a sector, a fenced write that was answered.
    violations: Vec<Violation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub volume: u32,
    pub block: u64,
    pub reason: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "volume {} block {}: {}", self.volume, self.block, self.reason)
    }
}

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub registers: u64,
    pub unknown: u64,
}

/// Fills a sector with what names the operation and the sector, so that a sector at a wrong place is noticed.
fn fill_sector(op: OpRef, volume: u32, sector: u64, bytes: &mut [u8]) {
    let check = mix(mix(op.0) ^ mix(u64::from(volume) << 48 ^ sector));
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(if i == 0 { op.0 } else { check }).to_le_bytes());
    }
}

/// What a sector holds; `None` if it is nothing that was ever written there.
pub fn sector_value(volume: u32, sector: u64, bytes: &[u8]) -> Option<Value> {
    let word = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
    let op = word(0);
    let check = if op == 0 { 0 } else { mix(mix(op) ^ mix(u64::from(volume) << 48 ^ sector)) };
    (1..WORDS_PER_SECTOR).all(|i| word(i) == check).then_some(Value(op))
}

impl History {
    fn next_position(&mut self) -> u64 {
        self.position += 1;
        self.position
    }

    pub fn invoke(
        &mut self,
        client: ClientNumber,
        kind: OpKind,
        volume: u32,
        first_sector: u64,
        sectors: u64,
    ) -> OpRef {
        let invoked = self.next_position();
        if kind != OpKind::Read {
            self.touched.extend((first_sector..first_sector + sectors).map(|sector| (volume, sector)));
        }
        self.ops.push(Operation {
            client,
            kind,
            volume,
            first_sector,
            sectors,
            invoked,
            answered: None,
            seen: Vec::new(),
            snapshot: None,
        });
        OpRef(self.ops.len() as u64)
    }

    /// A read of what a snapshot of the volume holds.
    pub fn invoke_snapshot_read(&mut self, client: ClientNumber, of: SnapshotRef, first: u64, sectors: u64) -> OpRef {
        let op = self.invoke(client, OpKind::Read, self.snapshots.volume(of), first, sectors);
        self.op_mut(op).snapshot = Some(of);
        op
    }

    /// Somebody asks for a snapshot.
    pub fn begin_snapshot(&mut self, volume: u32) -> SnapshotRef {
        self.begin_snapshots(&[volume])[0]
    }

    /// Of several volumes, at one moment.
    pub fn begin_snapshots(&mut self, volumes: &[u32]) -> Vec<SnapshotRef> {
        let position = self.next_position();
        self.snapshots.begin(volumes, position)
    }

    /// It is there: nothing comes into it any more.
    pub fn end_snapshot(&mut self, snapshot: SnapshotRef) {
        let position = self.next_position();
        self.snapshots.end(snapshot, position);
    }

    pub fn snapshot_count(&self) -> u64 {
        self.snapshots.count()
    }

    /// The data of a write.
    pub fn payload(&self, op: OpRef) -> Vec<u8> {
        let o = self.op(op);
        let mut bytes = vec![0; usize::try_from(o.sectors).expect("small") * SECTOR_BYTES as usize];
        for (i, sector) in bytes.chunks_exact_mut(SECTOR_BYTES as usize).enumerate() {
            fill_sector(op, o.volume, o.first_sector + i as u64, sector);
        }
        bytes
    }

    fn op(&self, op: OpRef) -> &Operation {
        &self.ops[usize::try_from(op.0 - 1).expect("its place")]
    }

    fn op_mut(&mut self, op: OpRef) -> &mut Operation {
        &mut self.ops[usize::try_from(op.0 - 1).expect("its place")]
    }

    /// A write or a zero was answered with success.
    pub fn answer(&mut self, op: OpRef) {
        let position = self.next_position();
        let o = self.op_mut(op);
        assert!(o.answered.is_none(), "an operation is answered once");
        o.answered = Some(position);
        let (client, invoked, volume, sector) = (o.client, o.invoked, o.volume, o.first_sector);
        if self.fences.get(&client).is_some_and(|fence| *fence < invoked) {
            let reason = format!("operation {} of a fenced attachment was answered with success", op.0);
            self.violations.push(Violation { volume, block: sector / SECTORS_PER_BLOCK, reason });
        }
    }

    /// A read was answered with these bytes.
    pub fn answer_read(&mut self, op: OpRef, bytes: &[u8]) {
        let position = self.next_position();
        let (volume, first) = (self.op(op).volume, self.op(op).first_sector);
        assert!(self.op(op).answered.is_none(), "an operation is answered once");
        let mut seen = Vec::new();
        for (i, sector) in bytes.chunks(SECTOR_BYTES as usize).enumerate() {
            let at = first + i as u64;
            let value = if sector.len() == SECTOR_BYTES as usize { self.value_in(volume, at, sector) } else { None };
            seen.push(value.unwrap_or(Value::ZERO));
            if value.is_none() {
                let reason = format!("operation {} read bytes in sector {at} that nobody wrote there", op.0);
                self.violations.push(Violation { volume, block: at / SECTORS_PER_BLOCK, reason });
            }
        }
        if seen.len() as u64 != self.op(op).sectors {
            let reason =
                format!("operation {} read {} sectors and was given {}", op.0, self.op(op).sectors, seen.len());
            self.violations.push(Violation { volume, block: first / SECTORS_PER_BLOCK, reason });
            return;
        }
        self.note_inherited(volume, first, &seen);
        let o = self.op_mut(op);
        let snapshot = o.snapshot;
        // A snapshot is read as if it had been at the moment at which it was made.
        let (invoked, answered) = match snapshot {
            None => (o.invoked, position),
            Some(snapshot) => self.snapshots.window(snapshot, position),
        };
        let o = self.op_mut(op);
        (o.invoked, o.answered, o.seen) = (invoked, Some(answered), seen);
        if let Some(snapshot) = snapshot {
            let seen = self.op(op).seen.clone();
            self.violations.extend(self.snapshots.see(snapshot, op, first, &seen));
        }
    }

    /// A volume is made that is at first what a snapshot is.
    pub fn clone_volume(&mut self, volume: u32, of: SnapshotRef) {
        self.origins.insert(volume, of);
    }

    /// A volume, what it was cloned from, and so on.
    fn ancestry(&self, volume: u32) -> impl Iterator<Item = u32> + '_ {
        let origin = |volume: &u32| self.origins.get(volume).map(|of| self.snapshots.volume(*of));
        std::iter::successors(Some(volume), origin)
    }

    /// What a sector of a volume holds; in a clone that may have been written in what it was cloned from.
    fn value_in(&self, volume: u32, sector: u64, bytes: &[u8]) -> Option<Value> {
        self.ancestry(volume).find_map(|volume| sector_value(volume, sector, bytes))
    }

    /// Who reads in a clone what was written in its origin has read the origin's snapshot there; and so has who reads zeroes where nobody ever wrote in
    /// the clone.
    fn note_inherited(&mut self, volume: u32, first: u64, seen: &[Value]) {
        let Some(of) = self.origins.get(&volume).copied() else { return };
        let origin = self.snapshots.volume(of);
        for (sector, value) in (first..).zip(seen) {
            let is_inherited = match *value {
                Value::ZERO => !self.touched.contains(&(volume, sector)),
                value => self.op(OpRef(value.0)).volume != volume,
            };
            if !is_inherited || self.snapshots.seen(of, sector) == Some(*value) {
                continue;
            }
            let (invoked, answered) = self.snapshots.window(of, self.position);
            self.ops.push(Operation {
                client: ClientNumber(0),
                kind: OpKind::Read,
                volume: origin,
                first_sector: sector,
                sectors: 1,
                invoked,
                answered: Some(answered),
                seen: vec![*value],
                snapshot: Some(of),
            });
            let op = OpRef(self.ops.len() as u64);
            self.violations.extend(self.snapshots.see(of, op, sector, &[*value]));
            self.note_inherited(origin, sector, &[*value]);
        }
    }

    /// What a sector held at first, as far as it is known.
    fn initial(&self, volume: u32, sector: u64) -> Value {
        let origin = self.origins.get(&volume);
        origin.and_then(|of| self.snapshots.seen(*of, sector)).unwrap_or(Value::ZERO)
    }

    /// From now on no write of this client may take effect (C2).
    pub fn fence(&mut self, client: ClientNumber) {
        let position = self.next_position();
        self.fences.entry(client).or_insert(position);
    }

    /// Blocks of a volume that any operation touched.
    pub fn blocks_of(&self, volume: u32) -> BTreeSet<u64> {
        let volumes: Vec<u32> = self.ancestry(volume).collect();
        let ops = self.ops.iter().filter(|op| volumes.contains(&op.volume));
        ops.flat_map(|op| op.first_sector / SECTORS_PER_BLOCK..=(op.first_sector + op.sectors - 1) / SECTORS_PER_BLOCK)
            .collect()
    }

    /// Checks every block.
    ///
    /// # Errors
    /// Everything found wrong.
    pub fn check(&self) -> Result<Checked, Vec<Violation>> {
        let mut blocks: BTreeMap<(u32, u64), Vec<usize>> = BTreeMap::new();
        for (i, op) in self.ops.iter().enumerate() {
            if op.kind == OpKind::Read && op.answered.is_none() {
                continue;
            }
            let last = op.first_sector + op.sectors - 1;
            for block in op.first_sector / SECTORS_PER_BLOCK..=last / SECTORS_PER_BLOCK {
                blocks.entry((op.volume, block)).or_default().push(i);
            }
        }
        let mut violations = self.violations.clone();
        violations.extend(self.snapshots.check_cuts(&self.ops_by_sector()));
        let mut checked = Checked::default();
        for ((volume, block), ops) in blocks {
            if let Err(reason) = self.check_block((volume, block), &ops, &mut checked) {
                violations.push(Violation { volume, block, reason });
            }
        }
        if violations.is_empty() { Ok(checked) } else { Err(violations) }
    }

    /// Writes of each sector of each volume: when they were asked and answered.
    fn ops_by_sector(&self) -> BTreeMap<(u32, u64), Vec<Written>> {
        let mut written: BTreeMap<(u32, u64), Vec<Written>> = BTreeMap::new();
        for (i, op) in self.ops.iter().enumerate().filter(|(_, op)| op.kind != OpKind::Read) {
            let value = if op.kind == OpKind::Write { Value(i as u64 + 1) } else { Value::ZERO };
            for sector in op.first_sector..op.first_sector + op.sectors {
                let it = Written { value, invoked: op.invoked, answered: op.answered };
                written.entry((op.volume, sector)).or_default().push(it);
            }
        }
        written
    }

    fn check_block(&self, (volume, block): (u32, u64), ops: &[usize], checked: &mut Checked) -> Result<(), String> {
        let sectors = block * SECTORS_PER_BLOCK..(block + 1) * SECTORS_PER_BLOCK;
        let covers = |op: &Operation| op.first_sector <= sectors.start && sectors.end <= op.first_sector + op.sectors;
        let written_whole = ops.iter().map(|i| &self.ops[*i]).all(|op| op.kind == OpKind::Read || covers(op));
        let begins_whole = sectors.clone().all(|s| self.initial(volume, s) == self.initial(volume, sectors.start));
        if !written_whole || !begins_whole {
            return sectors.clone().try_for_each(|sector| self.check_sector((volume, sector), ops, checked));
        }
        let mut registers = Vec::with_capacity(ops.len());
        for i in ops {
            let op = &self.ops[*i];
            let from = sectors.start.max(op.first_sector);
            let to = sectors.end.min(op.first_sector + op.sectors);
            let seen = |s: u64| op.seen[usize::try_from(s - op.first_sector).expect("inside")];
            if op.kind == OpKind::Read && (from..to).any(|s| seen(s) != seen(from)) {
                let values: Vec<Value> = (from..to).map(seen).collect();
                return Err(format!("C3: operation {} read a torn block: {values:?}", i + 1));
            }
            registers.push(self.register_op(*i, from));
        }
        self.check_ops(self.initial(volume, sectors.start), &registers, ops, checked)
    }

    fn check_sector(&self, (volume, sector): (u32, u64), ops: &[usize], checked: &mut Checked) -> Result<(), String> {
        let touches = |i: &&usize| {
            let op = &self.ops[**i];
            op.first_sector <= sector && sector < op.first_sector + op.sectors
        };
        let ops: Vec<usize> = ops.iter().filter(touches).copied().collect();
        let registers: Vec<RegisterOp> = ops.iter().map(|i| self.register_op(*i, sector)).collect();
        self.check_ops(self.initial(volume, sector), &registers, &ops, checked)
            .map_err(|reason| format!("sector {sector}: {reason}"))
    }

    fn check_ops(
        &self,
        initial: Value,
        registers: &[RegisterOp],
        ops: &[usize],
        checked: &mut Checked,
    ) -> Result<(), String> {
        checked.registers += 1;
        match super::check_register(initial, registers) {
            Ok(Verdict::Linearizable) => Ok(()),
            Ok(Verdict::Unknown) => {
                checked.unknown += 1;
                Ok(())
            }
            Err(Contradiction { at, text }) => Err(format!("{text}\n{}", list(registers, ops, at))),
        }
    }

    fn register_op(&self, i: usize, sector: u64) -> RegisterOp {
        let op = &self.ops[i];
        let access = match op.kind {
            OpKind::Read => Access::Read(op.seen[usize::try_from(sector - op.first_sector).expect("inside")]),
            OpKind::Write => Access::Write(Value(i as u64 + 1)),
            OpKind::Zero => Access::Write(Value::ZERO),
        };
        let mut until = op.answered.unwrap_or(u64::MAX);
        if op.kind != OpKind::Read
            && let Some(fence) = self.fences.get(&op.client)
        {
            until = until.min(*fence).max(op.invoked + 1);
        }
        RegisterOp { access, invoked: op.invoked, until, answered: op.answered.is_some() }
    }
}

/// The accesses around a place for people, in order of invocation.
fn list(registers: &[RegisterOp], ops: &[usize], at: u64) -> String {
    const SHOWN: usize = 12;
    let mut lines = String::new();
    let before = registers.partition_point(|op| op.invoked <= at);
    let shown = before.saturating_sub(SHOWN)..registers.len().min(before + SHOWN / 4);
    for (op, i) in registers[shown.clone()].iter().zip(&ops[shown]) {
        let until = if op.until == u64::MAX { "never".to_owned() } else { op.until.to_string() };
        let answer = if op.answered { "" } else { " (not answered)" };
        lines.push_str(&format!("    operation {} {:?} at {}..{until}{answer}\n", i + 1, op.access, op.invoked));
    }
    lines
}
