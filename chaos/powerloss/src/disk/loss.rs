//! The power fails and comes back.

use super::{Body, Disk, ROOT, Trap};
use crate::error::FsError;
use crate::fate::Fate;
use crate::report::{LossReport, Stats, Unsynced};
use std::collections::HashMap;

impl Disk {
    /// From now on every request fails; what `seed` lets survive is the disk's content when the power is back on. A second
    /// loss before that finds everything durable and does nothing.
    pub(crate) fn power_loss(&mut self, seed: u64) -> LossReport {
        let mut report = LossReport { seed, unsynced: self.unsynced(), ..LossReport::default() };
        self.trap = None;
        self.powered = false;
        self.era += 1;

        let (survivors, lost) = self.journal.lose(self.options.directory_order, &Fate::new(seed, 0));
        report.lost_directory_ops = lost;
        for op in &survivors {
            self.apply_durably(op);
        }
        self.lose_contents(seed, &mut report);
        report.lost_inodes = self.forget_volatile_names();

        self.stats.losses += 1;
        self.stats.lost_bytes += report.lost_bytes;
        self.stats.lost_directory_ops += report.lost_directory_ops;
        self.loss_last = Some(report);
        report
    }

    fn lose_contents(&mut self, seed: u64, report: &mut LossReport) {
        for (&number, inode) in &mut self.inodes {
            let Body::File(content) = &mut inode.body else { continue };
            if content.is_synced() {
                continue;
            }
            let before = content.stored_bytes();
            let loss = content.lose(&Fate::new(seed, number));
            self.stored_bytes = self.stored_bytes - before + content.stored_bytes();
            report.writes_kept += loss.kept;
            report.writes_dropped += loss.dropped;
            report.writes_torn += loss.torn;
            report.lost_bytes += loss.lost_bytes;
        }
    }

    /// The durable names become the only ones; what has none is gone. Gives how many had one before.
    fn forget_volatile_names(&mut self) -> u64 {
        let mut names: HashMap<u64, u32> = HashMap::from([(ROOT, 1)]);
        let mut to_visit = vec![ROOT];
        while let Some(number) = to_visit.pop() {
            let directory = self.directory_mut(number).expect("only directories are visited");
            directory.now = directory.durable.clone();
            for child in directory.durable.values().copied().collect::<Vec<_>>() {
                *names.entry(child).or_default() += 1;
                if let Body::Directory(directory) = &mut self.inodes.get_mut(&child).expect("D1").body {
                    assert_eq!(names[&child], 1, "J2: a directory has one name");
                    directory.parent = number;
                    to_visit.push(child);
                }
            }
        }
        let mut lost = 0;
        self.inodes.retain(|number, inode| {
            let survives = names.get(number).copied();
            lost += u64::from(inode.names > 0 && survives.is_none());
            inode.names = survives.unwrap_or(0);
            inode.durable_names = inode.names;
            inode.opens = 0;
            survives.is_some()
        });
        self.stored_bytes = self
            .inodes
            .values()
            .map(|inode| match &inode.body {
                Body::File(content) => content.stored_bytes(),
                _ => 0,
            })
            .sum();
        lost
    }

    /// Requests work again, on files opened from now on.
    pub(crate) fn power_on(&mut self) {
        self.powered = true;
    }

    pub(crate) fn is_powered(&self) -> bool {
        self.powered
    }

    /// The power fails at the change (write, size change, directory operation or sync) that comes after `changes` more;
    /// that change is not done.
    pub(crate) fn arm(&mut self, changes: u64, seed: u64) {
        self.trap = Some(Trap { changes_left: changes, seed });
        self.loss_last = None;
    }

    pub(crate) fn loss_last(&self) -> Option<LossReport> {
        self.loss_last
    }

    pub(crate) fn honour_sync(&mut self, honour: bool) {
        self.sync_honoured = honour;
    }

    /// sync(2) on everything: the starting point of a test, or an orderly shutdown.
    pub(crate) fn sync_all(&mut self) -> Result<(), FsError> {
        self.check_power()?;
        for inode in self.inodes.values_mut() {
            if let Body::File(content) = &mut inode.body {
                let before = content.stored_bytes();
                content.sync();
                self.stored_bytes = self.stored_bytes - before + content.stored_bytes();
            }
        }
        self.commit(|_| true);
        Ok(())
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    pub(crate) fn unsynced(&self) -> Unsynced {
        let mut unsynced = Unsynced { directory_ops: self.journal.len() as u64, ..Unsynced::default() };
        for inode in self.inodes.values() {
            if let Body::File(content) = &inode.body
                && !content.is_synced()
            {
                unsynced.files += 1;
                unsynced.bytes += content.unsynced_bytes();
            }
        }
        unsynced
    }
}
