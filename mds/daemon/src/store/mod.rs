//! The node's disk: one RocksDB. Each [`Persist`] is one synced write batch, so it happens whole or not at all.
//! M1: nothing is read that its checksum does not vouch for; damage is reported, never skipped. M2: a failed write ends the
//! process: what the disk holds then is known again only after it was read anew.
//! Bytes: format.rs.

mod format;

use crate::config::Settings;
use ashlar_mds_core::node::{DurableState, LogEntry, NodeConfig, Persist};
use ashlar_types::{ClusterId, MdsId};
use format::{Damage, Identity, Key};
use rocksdb::{DB, DBRecoveryMode, Direction, IteratorMode, LogLevel, Options, WriteBatch, WriteOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("{path} holds other files and no metadata node; choose an empty folder")]
    NotOurs { path: PathBuf },
    #[error("RocksDB in {path} cannot be opened: {source}")]
    Open { path: PathBuf, source: rocksdb::Error },
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: rocksdb::Error },
    #[error("writing {path}: {source}")]
    Write { path: PathBuf, source: rocksdb::Error },
    #[error("{path} belongs to {found_id} of cluster {found_cluster}, the configuration says {expected_id}{}",
            .expected_cluster.map_or(String::new(), |c| format!(" of cluster {c}")))]
    Foreign {
        path: PathBuf,
        found_id: MdsId,
        found_cluster: ClusterId,
        expected_id: MdsId,
        expected_cluster: Option<ClusterId>,
    },
    #[error("{path} is damaged: {source}; restore this node from another one")]
    Damaged { path: PathBuf, source: Damage },
}

pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) durable: DurableState,
    pub(crate) node_config: NodeConfig,
}

/// Opens the node's folder, or begins it.
pub(crate) fn open(settings: &Settings) -> Result<Opened, StoreError> {
    let path = settings.data_dir.clone();
    let db = open_db(&path)?;
    let mut store = Store { db, path, stored: 0..0 };
    let identity = store.read(Key::Identity, Identity::decode)?;
    match identity {
        Some(identity) => store.check_identity(&identity, settings)?,
        None if store.is_empty()? => return store.bootstrap(settings),
        None => return Err(store.damaged(Damage::Missing { key: Key::Identity })),
    }
    let cluster = identity.map_or(ClusterId(0), |i| i.cluster);
    let node_config = node_config(settings, cluster);
    let durable = store.load()?;
    Ok(Opened { store, durable, node_config })
}

fn node_config(settings: &Settings, cluster: ClusterId) -> NodeConfig {
    // Nodes differ in their ids; that is all that election timeouts need to differ by.
    let seed = cluster.0 as u64;
    let config = NodeConfig::new(settings.id, settings.peers.clone(), cluster, seed);
    NodeConfig { bin_window: settings.bin_window, ..config }
}

fn open_db(path: &Path) -> Result<DB, StoreError> {
    let folder = |source| StoreError::Folder { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(folder)?;
    let has_db = path.join("CURRENT").exists();
    let mut names = std::fs::read_dir(path).map_err(folder)?.flatten().map(|e| e.file_name());
    // A first start that was interrupted leaves these two behind.
    let of_rocksdb = |n: &std::ffi::OsString| {
        let name = n.to_string_lossy();
        ["LOG", "LOCK", "MANIFEST", "IDENTITY", "OPTIONS"].iter().any(|p| name.starts_with(p))
            || name.ends_with(".log")
            || name.ends_with(".dbtmp")
    };
    if !has_db && names.any(|n| !of_rocksdb(&n)) {
        return Err(StoreError::NotOurs { path: path.to_owned() });
    }
    let mut options = Options::default();
    options.create_if_missing(!has_db);
    options.set_paranoid_checks(true);
    // A torn tail was never acknowledged; anything else that is wrong in the log is damage (M1).
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_write_buffer_size(8 << 20);
    options.set_max_open_files(64);
    // RocksDB's own log file stays empty: Debian's build of it asserts when it cannot be written, so a full disk would end
    // the process before anybody is told why. What goes wrong is in the errors that it returns.
    options.set_log_level(LogLevel::Fatal);
    options.set_keep_log_file_num(2);
    DB::open(&options, path).map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

pub(crate) struct Store {
    db: DB,
    path: PathBuf,
    /// The indexes of the log entries in the database.
    stored: std::ops::Range<u64>,
}

impl Store {
    /// Makes all of them durable with one flush.
    pub(crate) fn persist(&mut self, persists: Vec<Persist>) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for persist in persists {
            self.add(&mut batch, persist);
        }
        self.write(batch)
    }

    fn add(&mut self, batch: &mut WriteBatch, persist: Persist) {
        put(batch, Key::HardState, format::encode_hard_state(&persist.hard_state));
        if let Some(snapshot) = &persist.snapshot {
            put(batch, Key::Snapshot, format::encode_snapshot(snapshot));
        }
        let kept = persist.keep.start.max(self.stored.start)..persist.keep.end.min(self.stored.end);
        for index in self.stored.clone().filter(|i| !kept.contains(i)) {
            batch.delete(Key::Entry(index).bytes());
        }
        let first = if kept.is_empty() { persist.entries.first().map_or(0, |e| e.index) } else { kept.start };
        let mut end = if kept.is_empty() { first } else { kept.end };
        for entry in &persist.entries {
            assert!(entry.index == end, "D1: the log has no gaps");
            put(batch, Key::Entry(entry.index), format::encode_entry(entry));
            end += 1;
        }
        self.stored = first..end;
    }

    fn bootstrap(self, settings: &Settings) -> Result<Opened, StoreError> {
        let cluster = match settings.cluster {
            Some(cluster) => cluster,
            None => draw_cluster()?,
        };
        let node_config = node_config(settings, cluster);
        let durable = DurableState::bootstrap(&node_config);
        let mut batch = WriteBatch::default();
        put(&mut batch, Key::Identity, Identity { cluster, id: settings.id }.encode());
        put(&mut batch, Key::HardState, format::encode_hard_state(&durable.hard_state));
        put(&mut batch, Key::Snapshot, format::encode_snapshot(&durable.snapshot));
        self.write(batch)?;
        Ok(Opened { store: self, durable, node_config })
    }

    fn load(&mut self) -> Result<DurableState, StoreError> {
        let hard_state = self.required(Key::HardState, format::decode_hard_state)?;
        let snapshot = self.required(Key::Snapshot, format::decode_snapshot)?;
        let mut entries: Vec<LogEntry> = Vec::new();
        let start = Key::Entry(0).bytes();
        for item in self.db.iterator(IteratorMode::From(&start, Direction::Forward)) {
            let (key, value) = item.map_err(|source| self.unreadable(source))?;
            let entry = Key::parse(&key).and_then(|key| match key {
                Key::Entry(index) => format::decode_entry(index, format::open(key, &value)?),
                other => Err(Damage::Contents { key: other }),
            });
            entries.push(entry.map_err(|source| self.damaged(source))?);
        }
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.stored = first.index..last.index + 1;
        }
        Ok(DurableState { hard_state, snapshot, entries })
    }

    fn check_identity(&self, found: &Identity, settings: &Settings) -> Result<(), StoreError> {
        if found.id == settings.id && settings.cluster.is_none_or(|c| c == found.cluster) {
            return Ok(());
        }
        Err(StoreError::Foreign {
            path: self.path.clone(),
            found_id: found.id,
            found_cluster: found.cluster,
            expected_id: settings.id,
            expected_cluster: settings.cluster,
        })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.db.write_opt(batch, &options).map_err(|source| StoreError::Write { path: self.path.clone(), source })
    }

    fn required<T>(&self, key: Key, decode: impl Fn(&[u8]) -> Result<T, Damage>) -> Result<T, StoreError> {
        self.read(key, decode)?.ok_or_else(|| self.damaged(Damage::Missing { key }))
    }

    fn read<T>(&self, key: Key, decode: impl Fn(&[u8]) -> Result<T, Damage>) -> Result<Option<T>, StoreError> {
        let value = self.db.get(key.bytes()).map_err(|source| self.unreadable(source))?;
        let read = |bytes: Vec<u8>| format::open(key, &bytes).and_then(&decode);
        value.map(read).transpose().map_err(|source| self.damaged(source))
    }

    fn is_empty(&self) -> Result<bool, StoreError> {
        match self.db.iterator(IteratorMode::Start).next() {
            None => Ok(true),
            Some(Ok(_)) => Ok(false),
            Some(Err(source)) => Err(self.unreadable(source)),
        }
    }

    fn unreadable(&self, source: rocksdb::Error) -> StoreError {
        StoreError::Read { path: self.path.clone(), source }
    }

    fn damaged(&self, source: Damage) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), source }
    }
}

fn put(batch: &mut WriteBatch, key: Key, payload: Vec<u8>) {
    batch.put(key.bytes(), format::seal(key, &payload));
}

fn draw_cluster() -> Result<ClusterId, StoreError> {
    let path = PathBuf::from("/dev/urandom");
    let mut bytes = [0; 16];
    let read = std::fs::File::open(&path).and_then(|mut f| f.read_exact(&mut bytes));
    read.map_err(|source| StoreError::Folder { path, source })?;
    // All zeroes stands for no cluster.
    Ok(ClusterId(u128::from_be_bytes(bytes).max(1)))
}

#[cfg(test)]
mod tests;
