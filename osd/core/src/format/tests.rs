//! Golden bytes, the layout, and damaged input for every structure.

use super::checkpoint::{ChainPage, CheckpointBody, LeafRef, PreparedRecord};
use super::directory_page::{self, DirectoryEntry, DirectoryPage, PageRef};
use super::index_page::{IndexPage, PagePlace, SLOTS, Slot, slot_of};
use super::log_batch::{BatchHeader, HEADER_BYTES, padded};
use super::log_record::Record;
use super::moved::MovedBlock;
use super::superblock::Superblock;
use super::{BlockAddr, FormatError, Identity, PAGE_BYTES, Run, layout};
use crate::store::api::{PgState, SessionState};
use ashlar_types::view::{Fences, Floor};
use ashlar_types::{
    AttachmentId, BlockIndex, BlockRange, ChunkId, ChunkIndex, ClusterId, Crc, Epoch, Generation, IdSet, LayerId, OpId,
    OpNumber, OsdId, PgId, PoolId, Seq, SessionId, StackRevision, Version, VolumeId,
};
use ashlar_wire::{BlockState, Change, JoinMeta, PushedBlock, RetryId, WriteMeta};
use bytes::BytesMut;
use std::collections::{BTreeMap, BTreeSet};

const ME: Identity = Identity { cluster: ClusterId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff), osd: OsdId(7) };
const PG: PgId = PgId { pool: PoolId(3), index: 5 };
const CHUNK: ChunkId = ChunkId { layer: LayerId(0x1122), index: ChunkIndex(9) };

fn version(epoch: u32, seq: u32) -> Version {
    Version::new(Epoch(epoch), Seq(seq))
}

fn superblock() -> Superblock {
    Superblock {
        identity: ME,
        seq: 41,
        capacity: 1 << 30,
        log_bytes: 1 << 20,
        log_position: 4096 * 300,
        log_seq: 77,
        log_previous: Crc(0x0102_0304),
        checkpoint: BlockAddr(1234),
        damaged: true,
    }
}

fn write_meta(change: Change) -> WriteMeta {
    WriteMeta {
        chunk: CHUNK,
        version: version(4, 12),
        prev: version(4, 11),
        op: OpId { session: SessionId(21), number: OpNumber(22) },
        lowest_unanswered: OpNumber(20),
        volume: VolumeId(31),
        attachment: AttachmentId(32),
        generation: Generation(33),
        change,
    }
}

fn range(first: u16, count: u16) -> BlockRange {
    BlockRange::new(BlockIndex(first), count).expect("inside a chunk")
}

fn fences() -> Fences {
    Fences {
        floors: BTreeMap::from([(VolumeId(31), floor())]),
        gone: IdSet::range(VolumeId(1), VolumeId(29)),
        retired: IdSet::from_ranges([(LayerId(2), LayerId(2)), (LayerId(4), LayerId(9))]).expect("in order"),
    }
}

fn floor() -> Floor {
    Floor {
        stack_revision: StackRevision(6),
        oldest_attachment: AttachmentId(8),
        generations: BTreeMap::from([(AttachmentId(9), Generation(10))]),
        closed: true,
    }
}

fn records() -> Vec<Record> {
    let write = Change::Write { range: range(255, 2), crcs: vec![Crc(0xaaaa_bbbb), Crc(0xcccc_dddd)] };
    let state = |crc| BlockState { stamp: version(4, 13), crc };
    let id = RetryId {
        op: OpId { session: SessionId(21), number: OpNumber(23) },
        lowest_unanswered: OpNumber(20),
        chunk: CHUNK,
        version: version(4, 13),
        volume: VolumeId(31),
        attachment: AttachmentId(32),
        generation: Generation(33),
    };
    let runs = vec![Run { first: BlockAddr(600), count: 1 }, Run { first: BlockAddr(700), count: 1 }];
    vec![
        Record::Prepare { pg: PG, write: write_meta(write), runs: runs.clone() },
        Record::Prepare { pg: PG, write: write_meta(Change::Zero { range: range(0, 1024) }), runs: Vec::new() },
        Record::Resolve {
            pg: PG,
            commit: vec![(CHUNK, version(4, 12))],
            rollback: vec![(CHUNK, version(4, 12)), (CHUNK, version(5, 1))],
            rolled_back: vec![(CHUNK, version(4, 14))],
        },
        Record::Promise { pg: PG, epoch: Epoch(6) },
        Record::RaiseFloor { pg: PG, fences: fences() },
        Record::Join { pg: PG, meta: JoinMeta { fences: fences(), rolled_back: vec![(CHUNK, version(4, 14))] } },
        Record::Push {
            pg: PG,
            chunk: CHUNK,
            from: version(3, 1),
            to: version(4, 13),
            blocks: vec![
                PushedBlock { block: BlockIndex(1), state: state(Some(Crc(5))) },
                PushedBlock { block: BlockIndex(2), state: state(None) },
                PushedBlock { block: BlockIndex(1023), state: state(Some(Crc(6))) },
            ],
            ids: vec![id],
            runs,
        },
        Record::DropChunk { pg: PG, chunk: CHUNK },
        Record::Repair {
            pg: PG,
            chunk: CHUNK,
            block: BlockIndex(8),
            stamp: version(4, 1),
            crc: Crc(99),
            at: BlockAddr(800),
        },
        Record::ForgetRolledBack { pg: PG },
        Record::ForgetDamage,
    ]
}

/// By itself: the golden batch is older.
fn merge_record() -> Record {
    let moved = |block, data| MovedBlock { block: BlockIndex(block), data };
    Record::PrepareMerge {
        pg: PG,
        write: write_meta(Change::Merge { from: LayerId(0x1121), at: version(4, 10) }),
        moved: vec![
            moved(0, Some((BlockAddr(600), Crc(0xaaaa_bbbb)))),
            moved(255, None),
            moved(1023, Some((BlockAddr::MAX, Crc(5)))),
        ],
    }
}

fn merge_bytes() -> Vec<u8> {
    let mut bytes = BytesMut::new();
    merge_record().encode(&mut bytes);
    bytes.to_vec()
}

fn batch() -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.resize(HEADER_BYTES, 0);
    records().iter().for_each(|r| r.encode(&mut bytes));
    let used = bytes.len();
    bytes.resize(padded(used), 0);
    header(used).seal(&mut bytes, ME);
    bytes.to_vec()
}

fn header(used: usize) -> BatchHeader {
    BatchHeader {
        seq: 78,
        position: 4096 * 301,
        flushed: 76,
        checkpoint: 41,
        previous: Crc(0x0506_0708),
        records: records().len() as u32,
        used: used as u32,
    }
}

fn index_page() -> IndexPage {
    let mut slots = Box::new([Slot::Never; SLOTS]);
    slots[0] = Slot::Present { addr: BlockAddr(600), crc: Crc(0xaaaa_bbbb), stamp: version(4, 12) };
    slots[1] = Slot::Absent { stamp: version(4, 10) };
    slots[2] = Slot::Lost;
    slots[255] = Slot::Present { addr: BlockAddr::MAX, crc: Crc(u32::MAX), stamp: Version::new(Epoch::MAX, Seq::MAX) };
    IndexPage { place: PagePlace { chunk: CHUNK, quarter: 3, checkpoint: 41 }, slots }
}

fn index_bytes() -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    index_page().encode(ME, &mut page);
    page
}

fn entries() -> Vec<DirectoryEntry> {
    let chunk = |index| ChunkId { index: ChunkIndex(index), ..CHUNK };
    let pages = [PageRef::new(BlockAddr(5), 41), PageRef::NONE, PageRef::new(BlockAddr::MAX, 1 << 27), PageRef::NONE];
    vec![
        DirectoryEntry { chunk: chunk(1), lost: false, committed: version(4, 12), pages },
        DirectoryEntry { chunk: chunk(2), lost: true, committed: Version::NONE, pages: [PageRef::NONE; 4] },
    ]
}

fn directory_bytes() -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    directory_page::encode(PG, 41, entries().into_iter(), ME, &mut page);
    page
}

fn body() -> CheckpointBody {
    let session = SessionState {
        volume: VolumeId(31),
        attachment: AttachmentId(32),
        generation: Generation(33),
        lowest_unanswered: OpNumber(20),
        writes: BTreeMap::from([(OpNumber(22), (CHUNK, version(4, 12)))]),
    };
    let state = PgState {
        promised: Epoch(6),
        fences: fences(),
        rolled_back: BTreeSet::from([(CHUNK, version(4, 14))]),
        sessions: BTreeMap::from([(SessionId(21), session)]),
    };
    let write = write_meta(Change::Write { range: range(7, 1), crcs: vec![Crc(1)] });
    let runs = vec![Run::one(BlockAddr(900))];
    CheckpointBody {
        pgs: vec![(PG, state)],
        prepared: vec![PreparedRecord { pg: PG, data_good: false, write, runs, moved: Vec::new() }],
        leaves: vec![LeafRef { pg: PG, addr: BlockAddr(901), crc: Crc(2) }],
    }
}

fn chain_bytes() -> Vec<u8> {
    let payload = body().encode();
    let page = ChainPage { checkpoint: 41, number: 1, used: payload.len() as u32, next: BlockAddr(55) };
    let mut bytes = vec![0; PAGE_BYTES];
    page.encode(&payload, ME, &mut bytes);
    bytes
}

/// Bytes as hex, 32 to a line, without the zeroes at the end.
fn hex(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
    bytes[..end].chunks(32).map(line).collect()
}

macro_rules! golden {
    ($name:ident, $file:literal, $bytes:expr) => {
        #[test]
        fn $name() {
            let now = hex(&$bytes);
            assert_eq!(
                now,
                include_str!(concat!("../../golden/", $file)),
                "the format of disks in use must not change"
            );
        }
    };
}

golden!(superblock_is_as_it_ever_was, "superblock-v1.hex", superblock().encode());
golden!(log_batch_is_as_it_ever_was, "log_batch-v1.hex", batch());
golden!(index_page_is_as_it_ever_was, "index_page-v1.hex", index_bytes());
golden!(directory_page_is_as_it_ever_was, "directory_page-v1.hex", directory_bytes());
golden!(merge_record_is_as_it_is_since_version_2, "merge_record-v2.hex", merge_bytes());
golden!(checkpoint_page_is_as_it_ever_was, "checkpoint_page-v1.hex", chain_bytes());

#[test]
fn the_layout_is_as_it_ever_was() {
    assert_eq!(layout(), include_str!("../../golden/layout.txt"));
}

#[test]
fn the_tables_in_the_documentation_are_the_layout() {
    let docs = include_str!("../../../../docs/formats.md");
    for line in layout().lines() {
        assert!(docs.contains(line), "docs/formats.md lacks: {line}");
    }
}

#[test]
fn what_was_encoded_is_decoded() {
    assert_eq!(Superblock::decode(&superblock().encode()), Ok(superblock()));
    assert_eq!(IndexPage::decode(&index_bytes(), ME, index_page().place), Ok(index_page()));
    assert!((0..SLOTS).all(|i| slot_of(&index_bytes(), i) == index_page().slots[i]));
    let (page, _) = DirectoryPage::decode(&directory_bytes(), ME).expect("good");
    assert_eq!((page.pg, page.checkpoint, page.entries), (PG, 41, entries()));
    assert_eq!(CheckpointBody::decode(&body().encode()), Ok(body()));
    let bytes = chain_bytes();
    let (page, payload) = ChainPage::decode(&bytes, ME, 41, 1).expect("good");
    assert_eq!((page.next, payload), (BlockAddr(55), &body().encode()[..]));
    let bytes = batch();
    assert_eq!(BatchHeader::peek_len(&bytes), Some(bytes.len()));
    let (found, _) = BatchHeader::decode(&bytes, ME).expect("good");
    assert_eq!(found, header(found.used as usize));
    let mut rest = &bytes[HEADER_BYTES..found.used as usize];
    let decoded: Vec<Record> =
        std::iter::from_fn(|| (!rest.is_empty()).then(|| Record::decode(&mut rest).expect("good"))).collect();
    assert_eq!(decoded, records());
    assert_eq!(Record::decode(&mut &merge_bytes()[..]), Ok(merge_record()));
    let Record::PrepareMerge { write, moved, .. } = merge_record() else { unreachable!("it is one") };
    let prepared = PreparedRecord { pg: PG, data_good: true, write, runs: Vec::new(), moved };
    let body = CheckpointBody { prepared: vec![prepared], ..body() };
    assert_eq!(CheckpointBody::decode(&body.encode()), Ok(body));
}

#[test]
fn a_merge_that_contradicts_itself_is_refused() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = merge_bytes();
        change(&mut bytes);
        Record::decode(&mut &bytes[..]).is_err()
    };
    // A run with a CRC, one without, one with: 16, 12 and 16 bytes.
    let moved_at = merge_bytes().len() - 44;
    assert!(refused(&|bytes| bytes[moved_at + 1] = 2), "out of order");
    assert!(refused(&|bytes| bytes[moved_at + 2] = 0), "an empty run");
    assert!(refused(&|bytes| bytes[moved_at + 2] = 2), "a run longer than its CRCs");
    assert!(refused(&|bytes| bytes[moved_at + 16 + 4] = 1), "an absent block with an address");
    assert!(refused(&|bytes| bytes[moved_at + 16 + 1] = 7), "a block past the end of its chunk");
    assert!(refused(&|bytes| bytes[moved_at + 28 + 9] = 1), "a block past the end of every disk");
    assert!(refused(&|bytes| bytes[moved_at - 1] = 1), "more runs than there are");
    assert!(refused(&|bytes| bytes[0] = 1), "a merge that does not say what it moves");
}

#[test]
fn structures_of_other_disks_and_places_are_refused() {
    let other = Identity { osd: OsdId(8), ..ME };
    let foreign = |e: FormatError| matches!(e, FormatError::Foreign { osd: OsdId(7), .. });
    assert!(IndexPage::decode(&index_bytes(), other, index_page().place).is_err_and(foreign));
    assert!(DirectoryPage::decode(&directory_bytes(), other).is_err_and(foreign));
    assert!(ChainPage::decode(&chain_bytes(), other, 41, 1).is_err_and(foreign));
    assert!(BatchHeader::decode(&batch(), other).is_err_and(foreign));
    let place = index_page().place;
    let misplaced = |p| matches!(IndexPage::decode(&index_bytes(), ME, p), Err(FormatError::Place { .. }));
    assert!(misplaced(PagePlace { quarter: 2, ..place }));
    assert!(misplaced(PagePlace { checkpoint: 40, ..place }), "a page whose rewriting was lost");
    assert!(misplaced(PagePlace { chunk: ChunkId::default(), ..place }));
    assert!(matches!(ChainPage::decode(&chain_bytes(), ME, 40, 1), Err(FormatError::Place { .. })));
    assert!(matches!(ChainPage::decode(&chain_bytes(), ME, 41, 0), Err(FormatError::Place { .. })));
    assert!(matches!(Superblock::decode(&index_bytes()), Err(FormatError::Magic { .. })));
}

/// Everything that decodes, on some bytes. None may panic.
fn decode_everything(bytes: &[u8]) {
    let _ = Superblock::decode(bytes);
    let _ = IndexPage::decode_any(bytes, ME);
    let _ = DirectoryPage::decode(bytes, ME);
    let _ = ChainPage::decode(bytes, ME, 41, 1);
    let _ = CheckpointBody::decode(bytes);
    if let Some(len) = BatchHeader::peek_len(bytes) {
        let _ = BatchHeader::decode(&bytes[..len.min(bytes.len())], ME);
    }
    let mut rest = bytes;
    while Record::decode(&mut rest).is_ok() {}
}

#[test]
fn damaged_bytes_are_refused_and_never_panic() {
    let mut records_only = BytesMut::new();
    records().iter().for_each(|r| r.encode(&mut records_only));
    let samples = [
        superblock().encode(),
        index_bytes(),
        directory_bytes(),
        chain_bytes(),
        batch(),
        body().encode(),
        records_only.to_vec(),
        merge_bytes(),
    ];
    let mut x = 1u64;
    let mut random = move |below: usize| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as usize % below
    };
    for sample in &samples {
        for _ in 0..4000 {
            let mut bytes = sample.clone();
            for _ in 0..1 + random(3) {
                let at = if random(2) == 0 { random(bytes.len().min(256)) } else { random(bytes.len()) };
                bytes[at] = random(256) as u8;
            }
            bytes.truncate(if random(4) == 0 { random(bytes.len() + 1) } else { bytes.len() });
            decode_everything(&bytes);
        }
    }
    for sample in &samples[..5] {
        for at in 0..sample.len() {
            let mut bytes = sample.clone();
            bytes[at] ^= 1 << random(8);
            let is_refused = Superblock::decode(&bytes).is_err()
                && IndexPage::decode_any(&bytes, ME).is_err()
                && DirectoryPage::decode(&bytes, ME).is_err()
                && ChainPage::decode(&bytes, ME, 41, 1).is_err()
                && BatchHeader::decode(&bytes, ME).is_err();
            assert!(is_refused, "one bit at {at}");
        }
    }
}

/// Damage that the checksum does not catch, because it was made before the checksum.
#[test]
fn sealed_nonsense_is_refused_and_never_panics() {
    let mut x = 7u64;
    let mut random = move |below: usize| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as usize % below
    };
    let samples = [
        (superblock().encode(), super::superblock::MAGIC),
        (index_bytes(), super::index_page::MAGIC),
        (directory_bytes(), super::directory_page::MAGIC),
        (chain_bytes(), super::checkpoint::MAGIC),
        (batch(), super::log_batch::MAGIC),
    ];
    for (sample, magic) in samples {
        for _ in 0..4000 {
            let mut bytes = sample.clone();
            for _ in 0..1 + random(4) {
                let at = super::prefix::PREFIX_BYTES + random(300);
                bytes[at] = random(256) as u8;
            }
            super::prefix::seal(&mut bytes, magic, ME);
            decode_everything(&bytes);
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hex"))
        .collect()
}

/// What was written before kind 12.
#[test]
fn a_merge_record_that_lists_its_blocks_is_read() {
    let mut bytes = unhex(include_str!("../../golden/merge_record-v1.hex"));
    // Golden files leave out the zeroes at the end.
    bytes.resize(8 + usize::from(bytes[4]), 0);
    assert_eq!(Record::decode(&mut &bytes[..]), Ok(merge_record()));
    let moved_at = bytes.len() - 3 * 16;
    for (at, wrong) in [(2, 2), (1, 2), (16 + 8, 1), (16 + 1, 7)] {
        let mut bytes = bytes.clone();
        bytes[moved_at + at] = wrong;
        assert!(Record::decode(&mut &bytes[..]).is_err(), "byte {at}");
    }
}

#[test]
fn blocks_that_were_written_in_order_take_little_more_than_their_checksums() {
    let moved: Vec<MovedBlock> = (0..1024u16)
        .map(|block| MovedBlock { block: BlockIndex(block), data: Some((BlockAddr(700 + u64::from(block)), Crc(9))) })
        .collect();
    let mut bytes = Vec::new();
    super::moved::put_runs(&mut bytes, &moved);
    assert_eq!(bytes.len(), 4 + 12 + 4 * 1024);
    assert_eq!(super::moved::runs(&mut super::codec::Reader::new(&bytes)), Ok(moved));
}
