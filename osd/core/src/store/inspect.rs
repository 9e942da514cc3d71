//! inspect: any structure of a disk, as text and (by serde) as JSON. Reads only, and says what it can of a damaged disk.

use super::offline::{Offline, ReadAt};
use crate::format::PAGE_BYTES;
use crate::format::index_page::{IndexPage, PagePlace, QUARTERS, SLOTS, Slot};
use crate::format::superblock::{SLOTS as SUPERBLOCKS, Superblock};
use ashlar_types::{BLOCKS_PER_CHUNK, ChunkId};
use serde::Serialize;
use std::fmt;

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InspectWhat {
    Superblock,
    /// The log's good batches and their records.
    Log,
    /// The checkpoint's pages, directory pages and prepared writes.
    Checkpoint,
    /// All chunks, by PG.
    Directory,
    /// The state of every PG.
    Pgs,
    /// One chunk, block by block, in whichever PG it is.
    Chunk(ChunkId),
}

/// A titled list of things, each a list of named values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inspection {
    pub items: Vec<Item>,
    /// What is damaged or could not be read.
    pub problems: Vec<String>,
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Item {
    pub title: String,
    pub fields: Vec<(String, String)>,
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            writeln!(f, "{}", item.title)?;
            for (name, value) in &item.fields {
                writeln!(f, "  {name:<20} {value}")?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for problem in &self.problems {
            writeln!(f, "problem: {problem}")?;
        }
        Ok(())
    }
}

impl Item {
    fn new(title: impl Into<String>) -> Item {
        Item { title: title.into(), fields: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl fmt::Display) -> Item {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }
}

/// Shows a part of a disk.
pub fn inspect(read: ReadAt<'_>, what: InspectWhat) -> Inspection {
    let offline = Offline::load(read);
    let items = match what {
        InspectWhat::Superblock => superblocks(&offline),
        InspectWhat::Log => log(&offline),
        InspectWhat::Checkpoint => checkpoint(&offline),
        InspectWhat::Directory => directory(&offline),
        InspectWhat::Pgs => pgs(&offline),
        InspectWhat::Chunk(chunk) => blocks(&offline, read, chunk),
    };
    Inspection { items, problems: offline.problems, notes: offline.notes }
}

fn superblocks(offline: &Offline) -> Vec<Item> {
    let slots = offline.slots.iter().zip(SUPERBLOCKS);
    slots
        .map(|(slot, at)| match slot {
            Ok(superblock) => {
                superblock_item(superblock, at, offline.superblock.is_some_and(|s| s.seq == superblock.seq))
            }
            Err(why) => Item::new(format!("superblock slot at {at}")).with("none", why),
        })
        .collect()
}

fn superblock_item(s: &Superblock, at: u64, is_current: bool) -> Item {
    Item::new(format!("superblock slot at {at}{}", if is_current { " (current)" } else { "" }))
        .with("cluster", s.identity.cluster)
        .with("osd", s.identity.osd)
        .with("sequence", s.seq)
        .with("capacity", ashlar_types::format_bytes(s.capacity))
        .with("capacity bytes", s.capacity)
        .with("log bytes", s.log_bytes)
        .with("log begins at", format!("batch {}, position {}", s.log_seq, s.log_position))
        .with("checkpoint", if s.checkpoint.is_none() { "none".to_owned() } else { s.checkpoint.to_string() })
        .with("damaged", s.damaged)
}

fn log(offline: &Offline) -> Vec<Item> {
    let scan = &offline.scan;
    let summary = Item::new("log")
        .with("good batches", scan.batches.len())
        .with("next batch", format!("{} at position {}", scan.seq, scan.position))
        .with("known flushed up to", scan.flushed)
        .with("torn bytes", scan.torn_bytes)
        .with("damage", scan.damage.as_deref().unwrap_or("none"));
    let batches = scan.batches.iter().enumerate().map(|(nth, batch)| {
        let h = &batch.header;
        let item = Item::new(format!("batch {}", h.seq))
            .with("position", h.position)
            .with("bytes", batch.bytes)
            .with("flushed", h.flushed)
            .with("checkpoint", h.checkpoint);
        match offline.records(nth) {
            Ok(records) => records
                .iter()
                .enumerate()
                .fold(item, |item, (i, r)| item.with(&format!("record {i}"), format_args!("{r:?}"))),
            Err(why) => item.with("records", why),
        }
    });
    std::iter::once(summary).chain(batches).collect()
}

fn checkpoint(offline: &Offline) -> Vec<Item> {
    let number = offline.superblock.map_or(0, |s| s.seq);
    let pages = offline.chain.iter().map(|a| a.0.to_string()).collect::<Vec<_>>().join(" ");
    let summary = Item::new(format!("checkpoint {number}"))
        .with("blocks", pages)
        .with("PGs", offline.body.pgs.len())
        .with("prepared writes", offline.body.prepared.len())
        .with("directory pages", offline.body.leaves.len());
    let prepared = offline.body.prepared.iter().map(|p| {
        Item::new(format!("prepared {} of {} ({})", p.write.version, p.write.chunk, p.pg))
            .with("data good", p.data_good)
            .with("write", format_args!("{:?}", p.write))
            .with("blocks", format_args!("{:?}", p.runs))
            .with("moved blocks", p.moved.len())
    });
    let leaves = offline.leaves.iter().map(|(addr, page)| {
        Item::new(format!("directory page at {addr}"))
            .with("pg", page.pg)
            .with("written by", format!("checkpoint {}", page.checkpoint))
            .with("chunks", page.entries.len())
            .with("first", page.entries.first().map(|e| e.chunk).unwrap_or_default())
    });
    std::iter::once(summary).chain(prepared).chain(leaves).collect()
}

fn directory(offline: &Offline) -> Vec<Item> {
    let mut items = Vec::new();
    for (pg, mem) in &offline.state.pgs {
        for entry in mem.directory.iter() {
            let versions = mem.versions(entry.chunk());
            let pages: Vec<String> = entry
                .pages
                .iter()
                .map(|p| if p.is_none() { "-".to_owned() } else { format!("{}@{}", p.addr().0, p.checkpoint()) })
                .collect();
            let item = Item::new(format!("{} ({pg})", entry.chunk()))
                .with("committed", versions.committed)
                .with("newest", versions.newest)
                .with("index pages", pages.join(" "));
            items.push(if entry.is_lost() { item.with("lost", "some blocks' states") } else { item });
        }
    }
    items
}

fn pgs(offline: &Offline) -> Vec<Item> {
    let pgs = offline.state.pgs.iter().map(|(pg, mem)| {
        let item = Item::new(pg.to_string())
            .with("promised", mem.state.promised)
            .with("chunks", mem.directory.len())
            .with("prepared", mem.prepared.len())
            .with("floors", format_args!("{:?}", mem.state.fences.floors))
            .with("gone", format_args!("{:?}", mem.state.fences.gone))
            .with("retired", format_args!("{:?}", mem.state.fences.retired))
            .with("rolled back", format_args!("{:?}", mem.state.rolled_back));
        mem.state.sessions.iter().fold(item, |item, (id, s)| item.with(&id.to_string(), format_args!("{s:?}")))
    });
    pgs.collect()
}

fn blocks(offline: &Offline, read: ReadAt<'_>, chunk: ChunkId) -> Vec<Item> {
    let Some(identity) = offline.identity() else { return Vec::new() };
    let mut items = Vec::new();
    for (pg, mem) in offline.state.pgs.iter().filter(|(_, m)| m.directory.get(chunk).is_some()) {
        let versions = mem.versions(chunk);
        let mut item =
            Item::new(format!("{chunk} ({pg})")).with("committed", versions.committed).with("newest", versions.newest);
        for prepared in mem.prepared_of(chunk) {
            item = item.with("prepared", format_args!("{:?} data good: {}", prepared.write, prepared.data_good));
        }
        for quarter in 0..QUARTERS as u8 {
            let view = offline.state.view(*pg, chunk, quarter).expect("the directory names the chunk");
            let page = if view.page.is_none() {
                None
            } else {
                let place = PagePlace { chunk, quarter, checkpoint: view.page.checkpoint() };
                let bytes = read(view.page.addr().byte_offset(), PAGE_BYTES as u32).unwrap_or_default();
                let page = IndexPage::decode(&bytes, identity, place);
                item = item.with(
                    &format!("quarter {quarter}"),
                    match &page {
                        Ok(_) => format!("index page at {}", view.page.addr()),
                        Err(why) => format!("index page at {} is damaged: {why}", view.page.addr()),
                    },
                );
                page.ok()
            };
            for slot in 0..SLOTS {
                let state =
                    view.get(slot as u8).unwrap_or_else(|| page.as_ref().map(|p| p.slots[slot]).unwrap_or_default());
                let block = usize::from(quarter) * SLOTS + slot;
                if state != Slot::Never && block < BLOCKS_PER_CHUNK as usize {
                    item = item.with(&format!("block {block}"), slot_text(state));
                }
            }
        }
        items.push(item);
    }
    if items.is_empty() {
        items.push(Item::new(chunk.to_string()).with("missing", "this disk has no such chunk"));
    }
    items
}

fn slot_text(slot: Slot) -> String {
    match slot {
        Slot::Never => "never written".to_owned(),
        Slot::Absent { stamp } => format!("zeroed by {stamp}"),
        Slot::Present { addr, crc, stamp } => format!("at {addr}, CRC {crc}, written by {stamp}"),
        Slot::Lost => "lost with its index page".to_owned(),
    }
}
