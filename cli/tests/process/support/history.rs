//! Writes that say who they are, and what a volume may hold after a crash: of each block the last acknowledged write, or
//! one that was sent after it and never answered.

use super::nbd::Nbd;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub const BLOCK: usize = 4096;
/// Requests of one writer under way.
const DEPTH: usize = 8;

/// What one writer knows of its blocks. Block numbers are of the volume.
#[derive(Debug, Default)]
pub struct History {
    /// Of each block: the number of its last acknowledged write.
    acknowledged: HashMap<u64, u64>,
    /// Of each block: numbers of later writes that were never answered.
    unanswered: HashMap<u64, Vec<u64>>,
    pub writes: u64,
}

/// A block that names its place and its write, in every sector, so that a torn or misplaced one is seen.
pub fn content(block: u64, number: u64) -> Vec<u8> {
    let mut data = Vec::with_capacity(BLOCK);
    for sector in 0..(BLOCK / 512) as u64 {
        let mut bytes = [0u8; 512];
        bytes[..8].copy_from_slice(&block.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes[16..24].copy_from_slice(&sector.to_le_bytes());
        bytes[24..].fill((number ^ block ^ sector) as u8);
        data.extend(bytes);
    }
    data
}

fn number_of(block: u64, data: &[u8]) -> Result<u64, String> {
    if data.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let number = u64::from_le_bytes(data[8..16].try_into().expect("8 bytes"));
    if data == content(block, number) {
        Ok(number)
    } else {
        Err(format!("block {block} is torn or foreign: {:02x?}…", &data[..24]))
    }
}

impl History {
    /// Writes blocks of `first..first + count` in a scattered order until `stop`, or until the connection breaks. Never two
    /// requests for one block at a time. Counts what is acknowledged in `written`.
    pub fn write_until(
        &mut self,
        nbd: &mut Nbd,
        first: u64,
        count: u64,
        stop: &AtomicBool,
        written: &AtomicU64,
    ) -> io::Result<()> {
        let mut under_way: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut state = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        loop {
            if stop.load(Ordering::Relaxed) && under_way.is_empty() {
                return Ok(());
            }
            if under_way.len() < DEPTH && !stop.load(Ordering::Relaxed) {
                // xorshift64 (Marsaglia): where is unimportant, as long as it is everywhere.
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let block = first + state % count;
                if under_way.values().any(|(busy, _)| *busy == block) {
                    continue;
                }
                self.writes += 1;
                let number = self.writes;
                let offset = block * BLOCK as u64;
                self.unanswered.entry(block).or_default().push(number);
                match nbd.send(super::nbd::CMD_WRITE, 0, offset, BLOCK as u32, &content(block, number)) {
                    Ok(cookie) => under_way.insert(cookie, (block, number)),
                    Err(error) => return Err(error),
                };
                continue;
            }
            match nbd.receive() {
                Ok((cookie, 0)) => {
                    let (block, number) = under_way.remove(&cookie).expect("a reply answers a request");
                    self.acknowledged.insert(block, number);
                    self.unanswered.remove(&block);
                    written.fetch_add(1, Ordering::Relaxed);
                }
                Ok((_, error)) => return Err(io::Error::other(format!("NBD error {error}"))),
                Err(error) => return Err(error),
            }
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// Reads every block that was ever written. What it finds is what it expects from now on.
    pub fn check(&mut self, nbd: &mut Nbd) -> Result<(), String> {
        let mut blocks: Vec<u64> = self.acknowledged.keys().chain(self.unanswered.keys()).copied().collect();
        blocks.sort_unstable();
        blocks.dedup();
        for block in blocks {
            let read = nbd.read(block * BLOCK as u64, BLOCK as u32).map_err(|e| format!("block {block}: {e}"))?;
            let data = read.map_err(|error| format!("block {block}: NBD error {error}"))?;
            let found = number_of(block, &data)?;
            let last = self.acknowledged.get(&block).copied().unwrap_or(0);
            let maybe = self.unanswered.remove(&block).unwrap_or_default();
            if found != last && !maybe.contains(&found) {
                return Err(format!(
                    "block {block} holds write {found}; {last} was acknowledged, {maybe:?} may be there"
                ));
            }
            self.acknowledged.insert(block, found);
        }
        Ok(())
    }
}
