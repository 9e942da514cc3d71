//! Keys and values in a node's RocksDB, version 1. All numbers in values are little-endian.
//! Each value begins with version (2 bytes) and CRC32C (4 bytes) of its key and its payload: a value under another's key is
//! caught like a damaged one. Golden bytes: golden/store-v1.hex.

use ashlar_mds_core::node::{HardState, LogEntry, SnapshotRecord};
use ashlar_types::{ClusterId, MdsId};
use std::fmt;

const VERSION: u16 = 1;
const HEADER_BYTES: usize = 6;

/// The keys, in RocksDB's order: entries come last, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Identity,
    HardState,
    Snapshot,
    Entry(u64),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Identity => f.write_str("the identity"),
            Key::HardState => f.write_str("the hard state"),
            Key::Snapshot => f.write_str("the snapshot"),
            Key::Entry(index) => write!(f, "log entry {index}"),
        }
    }
}

/// Why a value is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("{key} is missing")]
    Missing { key: Key },
    #[error("{key}: checksum {found:08x}, expected {expected:08x}")]
    Checksum { key: Key, expected: u32, found: u32 },
    #[error("{key} has format version {found}; this program knows {VERSION}")]
    Version { key: Key, found: u16 },
    #[error("{key} is not readable although its checksum is right")]
    Contents { key: Key },
    #[error("there is an unknown key {0:02x?}")]
    UnknownKey(Vec<u8>),
}

impl Key {
    pub(super) fn bytes(self) -> Vec<u8> {
        match self {
            Key::Identity => b"a".to_vec(),
            Key::HardState => b"h".to_vec(),
            Key::Snapshot => b"k".to_vec(),
            // Big-endian, so that the order of keys is the order of indexes.
            Key::Entry(index) => [b"l".as_slice(), &index.to_be_bytes()].concat(),
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Key, Damage> {
        match bytes {
            b"a" => Ok(Key::Identity),
            b"h" => Ok(Key::HardState),
            b"k" => Ok(Key::Snapshot),
            [b'l', index @ ..] if index.len() == 8 => {
                Ok(Key::Entry(u64::from_be_bytes(index.try_into().expect("eight bytes"))))
            }
            _ => Err(Damage::UnknownKey(bytes.to_vec())),
        }
    }
}

pub(super) fn seal(key: Key, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&checksum(key, payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The payload of a value, once it is known to be what was written under this key.
pub(super) fn open(key: Key, value: &[u8]) -> Result<&[u8], Damage> {
    let Some(([v0, v1, c0, c1, c2, c3], payload)) = value.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Damage::Contents { key });
    };
    let version = u16::from_le_bytes([*v0, *v1]);
    if version != VERSION {
        return Err(Damage::Version { key, found: version });
    }
    let expected = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
    let found = checksum(key, payload);
    if found != expected {
        return Err(Damage::Checksum { key, expected, found });
    }
    Ok(payload)
}

fn checksum(key: Key, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&key.bytes()), payload)
}

/// Whose folder this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) cluster: ClusterId,
    pub(super) id: MdsId,
}

impl Identity {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.cluster.0.to_le_bytes().as_slice(), &self.id.0.to_le_bytes()].concat()
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Identity, Damage> {
        let mut reader = Reader { key: Key::Identity, rest: payload };
        let cluster = ClusterId(u128::from_le_bytes(reader.take()?));
        let id = MdsId(reader.u64()?);
        reader.end()?;
        Ok(Identity { cluster, id })
    }
}

pub(super) fn encode_hard_state(hard: &HardState) -> Vec<u8> {
    [hard.term, hard.vote, hard.commit].iter().flat_map(|n| n.to_le_bytes()).collect()
}

pub(super) fn decode_hard_state(payload: &[u8]) -> Result<HardState, Damage> {
    let mut reader = Reader { key: Key::HardState, rest: payload };
    let hard = HardState { term: reader.u64()?, vote: reader.u64()?, commit: reader.u64()? };
    reader.end()?;
    Ok(hard)
}

/// Index, term, number of voters, voters, state.
pub(super) fn encode_snapshot(snapshot: &SnapshotRecord) -> Vec<u8> {
    let voters = snapshot.voters.iter().map(|v| v.0);
    let numbers = [snapshot.index, snapshot.term, snapshot.voters.len() as u64].into_iter().chain(voters);
    let mut bytes: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
    bytes.extend_from_slice(&snapshot.data);
    bytes
}

pub(super) fn decode_snapshot(payload: &[u8]) -> Result<SnapshotRecord, Damage> {
    let mut reader = Reader { key: Key::Snapshot, rest: payload };
    let (index, term, voters) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let voters = (0..voters).map(|_| Ok(MdsId(reader.u64()?))).collect::<Result<_, Damage>>()?;
    Ok(SnapshotRecord { index, term, voters, data: reader.rest.to_vec() })
}

/// Term, command. The index is the key.
pub(super) fn encode_entry(entry: &LogEntry) -> Vec<u8> {
    [entry.term.to_le_bytes().as_slice(), &entry.data].concat()
}

pub(super) fn decode_entry(index: u64, payload: &[u8]) -> Result<LogEntry, Damage> {
    let mut reader = Reader { key: Key::Entry(index), rest: payload };
    Ok(LogEntry { index, term: reader.u64()?, data: reader.rest.to_vec() })
}

struct Reader<'a> {
    key: Key,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(Damage::Contents { key: self.key })?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn u64(&mut self) -> Result<u64, Damage> {
        self.take().map(u64::from_le_bytes)
    }

    fn end(&self) -> Result<(), Damage> {
        if self.rest.is_empty() { Ok(()) } else { Err(Damage::Contents { key: self.key }) }
    }
}
