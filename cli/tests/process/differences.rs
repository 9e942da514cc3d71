//! What has changed between snapshots, told from their layers: held against what was really written, whatever has become of the layers since.

use crate::support::Cluster;
use crate::support::cluster::Export;
use crate::support::nbd::{CMD_WRITE_ZEROES, Nbd};
use crate::support::tools::{missing, run_ok, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
/// Six chunks.
const SIZE: u64 = 24 * MIB;
const BLOCKS: usize = (SIZE / BLOCK) as usize;
const CMD_TRIM: u16 = 4;

/// splitmix64
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

/// What was done to a block since the last snapshot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touched {
    /// Zeroed where it was zero: whether that is noted is the store's affair.
    Maybe,
    /// Zeroed as a whole.
    Zeroed,
    Written,
}

/// What a disk holds, and what was done to it since each snapshot in its past.
#[derive(Clone)]
struct Disk {
    data: Vec<u8>,
    layers: Vec<BTreeMap<usize, Touched>>,
}

impl Disk {
    fn new() -> Disk {
        Disk { data: vec![0; SIZE as usize], layers: vec![BTreeMap::new()] }
    }

    /// Its state now, as a snapshot of it.
    fn snapshot(&mut self) -> Disk {
        let taken = self.clone();
        self.layers.push(BTreeMap::new());
        taken
    }

    fn block(&self, block: usize) -> &[u8] {
        &self.data[block * BLOCK as usize..(block + 1) * BLOCK as usize]
    }

    fn is_zero(&self, block: usize) -> bool {
        self.block(block).iter().all(|byte| *byte == 0)
    }

    fn touch(&mut self, block: usize, touched: Touched) {
        let top = self.layers.last_mut().expect("there is always one");
        match (top.get(&block), touched) {
            (Some(_), Touched::Maybe) => {}
            _ => {
                top.insert(block, touched);
            }
        }
    }

    fn write(&mut self, nbd: &mut Nbd, at: u64, len: u64, fill: u8) {
        nbd.write(at, &vec![fill; len as usize]).expect("connected").expect("written");
        self.data[at as usize..(at + len) as usize].fill(fill);
        (at / BLOCK..(at + len).div_ceil(BLOCK)).for_each(|block| self.touch(block as usize, Touched::Written));
    }

    fn zero(&mut self, nbd: &mut Nbd, command: u16, at: u64, len: u64) {
        nbd.send(command, 0, at, len as u32, &[]).expect("connected");
        assert_eq!(nbd.receive().expect("connected").1, 0);
        let is_aligned = at.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK);
        for block in (at / BLOCK) as usize..(at + len).div_ceil(BLOCK) as usize {
            let noted = self.layers.last().and_then(|top| top.get(&block).copied());
            let touched = match (self.is_zero(block), is_aligned) {
                (false, true) => Touched::Zeroed,
                // The rest of the block may have to be written.
                (false, false) => Touched::Written,
                (true, false) if noted.is_some_and(|noted| noted != Touched::Maybe) => Touched::Written,
                (true, _) => Touched::Maybe,
            };
            self.touch(block, touched);
        }
        self.data[at as usize..(at + len) as usize].fill(0);
    }

    /// Writes, discards and zeroes, few of them at borders of blocks.
    fn scribble(&mut self, nbd: &mut Nbd, random: &mut Random) {
        for _ in 0..25 {
            let unit = [1, 512, BLOCK][random.below(3) as usize];
            let len = (1 + random.below(12 * BLOCK / unit)) * unit;
            let at = random.below((SIZE - len) / unit) * unit;
            match random.below(4) {
                0 => self.zero(nbd, CMD_TRIM, at, len),
                1 => self.zero(nbd, CMD_WRITE_ZEROES, at, len),
                _ => self.write(nbd, at, len, 1 + random.below(255) as u8),
            }
        }
    }
}

/// By block, true for data.
fn blocks_of(diff: &Value) -> BTreeMap<usize, bool> {
    let mut blocks = BTreeMap::new();
    let mut end = 0;
    let (mut data, mut zero) = (0, 0);
    for extent in diff["extents"].as_array().expect("a list") {
        let number = |field: &str| extent[field].as_u64().expect("a number");
        let (offset, length) = (number("offset"), number("length"));
        assert!(offset >= end && length > 0 && offset % BLOCK == 0, "{extent}");
        end = offset + length;
        let is_data = match extent["kind"].as_str() {
            Some("data") => true,
            Some("zero") => false,
            other => panic!("{other:?}"),
        };
        *(if is_data { &mut data } else { &mut zero }) += length;
        blocks.extend((offset / BLOCK..end.div_ceil(BLOCK)).map(|block| (block as usize, is_data)));
    }
    assert!(end <= diff["to_size"].as_u64().expect("a size"));
    assert_eq!((diff["data_bytes"].as_u64(), diff["zero_bytes"].as_u64()), (Some(data), Some(zero)));
    blocks
}

/// `fork`: how many layers the two have in common.
fn assert_is_diff(diff: &Value, from: &Disk, to: &Disk, fork: usize) {
    let (blocks, what) = (blocks_of(diff), format!("{} to {}", diff["from"], diff["to"]));
    for block in 0..BLOCKS {
        let found = blocks.get(&block);
        let since = |disk: &Disk| -> Vec<Touched> {
            disk.layers[fork..].iter().filter_map(|layer| layer.get(&block).copied()).collect()
        };
        let (mine, theirs) = (since(to), since(from));
        let all = || mine.iter().chain(&theirs);
        if from.block(block) != to.block(block) || all().any(|touched| *touched != Touched::Maybe) {
            assert!(found.is_some(), "{what}: block {block} has changed");
        }
        let Some(is_data) = found else { continue };
        assert!(all().next().is_some(), "{what}: nobody touched block {block}");
        assert!(*is_data || to.is_zero(block), "{what}: block {block} is not zero");
        if mine.last() == Some(&Touched::Zeroed) {
            assert!(!is_data, "{what}: block {block} was zeroed");
        }
        if mine.last() == Some(&Touched::Written) && !to.is_zero(block) {
            assert!(is_data, "{what}: block {block} was written");
        }
    }
}

fn connect(export: &Export) -> Nbd {
    let name = export.uri.rsplit('/').next().expect("a name");
    Nbd::connect(&export.address, name).expect("served")
}

fn extents(diff: &Value) -> Vec<(u64, u64, String)> {
    let extents = diff["extents"].as_array().expect("a list").iter();
    let number = |extent: &Value, field: &str| extent[field].as_u64().expect("a number");
    let kind = |extent: &Value| extent["kind"].as_str().expect("a word").to_owned();
    extents.map(|e| (number(e, "offset"), number(e, "length"), kind(e))).collect()
}

fn data(offset: u64, len: u64) -> (u64, u64, String) {
    (offset, len, "data".to_owned())
}

fn zero(offset: u64, len: u64) -> (u64, u64, String) {
    (offset, len, "zero".to_owned())
}

/// The volume is attached and has a client all the time.
#[test]
fn differences_of_a_chain_are_what_was_written_also_while_it_is_merged_and_osds_fail() {
    let cluster = Cluster::up(&[]);
    let mut nbd = connect(&cluster.volume("v", "24MiB"));
    let (mut disk, mut random, mut taken) = (Disk::new(), Random(7), Vec::new());
    for number in 0..4 {
        disk.scribble(&mut nbd, &mut random);
        cluster.ok(&["snapshot", "create", &format!("v@s{number}")]);
        taken.push(disk.snapshot());
    }
    disk.scribble(&mut nbd, &mut random);
    let check = |left: &[usize], disk: &Disk| {
        for (nth, from) in left.iter().enumerate() {
            let fork = from + 1;
            for to in &left[nth..] {
                let diff = cluster.json(&["snapshot", "diff", &format!("v@s{from}"), &format!("v@s{to}")]);
                assert_is_diff(&diff, &taken[*from], &taken[*to], fork);
            }
            let diff = cluster.json(&["volume", "diff", &format!("v@s{from}")]);
            assert_is_diff(&diff, &taken[*from], disk, fork);
        }
    };
    check(&[0, 1, 2, 3], &disk);
    let none = cluster.json(&["snapshot", "diff", "v", "s2", "s2"]);
    assert_eq!(extents(&none), []);
    // Backwards: what has to be written to get the older one back.
    let diff = cluster.json(&["snapshot", "diff", "v@s3", "v@s1"]);
    assert_is_diff(&diff, &taken[3], &taken[1], 2);
    let text = cluster.ok(&["snapshot", "diff", "v", "s0", "s1"]);
    assert!(text.contains("OFFSET") && text.contains("from v@s0 to v@s1: "), "{text}");
    cluster.ok(&["snapshot", "delete", "v@s1"]);
    let layers = || cluster.json(&["volume", "show", "v"])["layers"].as_array().map_or(0, Vec::len);
    let begin = Instant::now();
    loop {
        check(&[0, 2, 3], &disk);
        if layers() == 4 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "it is not merged");
    }
    cluster.ok(&["osd", "kill", "1"]);
    disk.scribble(&mut nbd, &mut random);
    check(&[0, 2, 3], &disk);
    cluster.ok(&["osd", "start", "1"]);
    cluster.kill_everything();
    cluster.up_again(&[]);
    check(&[0, 3], &disk);
}

#[test]
fn differences_of_branches_are_what_either_has_written() {
    let cluster = Cluster::up(&[]);
    let (mut disk, mut random) = (Disk::new(), Random(8));
    let mut nbd = connect(&cluster.volume("v", "24MiB"));
    disk.scribble(&mut nbd, &mut random);
    cluster.ok(&["snapshot", "create", "v@fork"]);
    let fork = disk.snapshot();
    disk.scribble(&mut nbd, &mut random);
    cluster.ok(&["snapshot", "create", "v@left"]);
    let left = disk.snapshot();
    nbd.disconnect();
    cluster.ok(&["volume", "detach", "v"]);
    cluster.ok(&["snapshot", "revert", "v@fork"]);
    let mut disk = fork.clone();
    disk.layers.push(BTreeMap::new());
    let diff = cluster.json(&["volume", "diff", "v@fork"]);
    assert_eq!(extents(&diff), [], "it was reverted to that");
    let mut nbd = connect(&cluster.attach(&["v"]));
    disk.scribble(&mut nbd, &mut random);
    cluster.ok(&["snapshot", "create", "v@right"]);
    let right = disk.snapshot();
    disk.scribble(&mut nbd, &mut random);
    let diff = |from: &str, to: &str| cluster.json(&["snapshot", "diff", "v", from, to]);
    assert_is_diff(&diff("left", "right"), &left, &right, 1);
    assert_is_diff(&diff("right", "left"), &right, &left, 1);
    assert_is_diff(&diff("fork", "right"), &fork, &right, 1);
    assert_is_diff(&cluster.json(&["volume", "diff", "v@left"]), &left, &disk, 1);
    assert_is_diff(&cluster.json(&["volume", "diff", "v@fork"]), &fork, &disk, 1);
    cluster.ok(&["snapshot", "delete", "v@fork"]);
    assert_is_diff(&diff("left", "right"), &left, &right, 1);
}

#[test]
fn what_a_volume_has_grown_by_is_told_as_far_as_it_is_written() {
    let cluster = Cluster::up(&["--osds", "1"]);
    let mut disk = Disk::new();
    let export = cluster.volume("v", "24MiB");
    let mut nbd = connect(&export);
    disk.write(&mut nbd, 0, BLOCK, 1);
    cluster.ok(&["snapshot", "create", "v@small"]);
    cluster.ok(&["volume", "extend", "v", "--size", "48MiB"]);
    nbd.disconnect();
    let mut nbd = connect(&export);
    nbd.write(30 * MIB + 5, &[3; 10]).expect("connected").expect("written");
    disk.zero(&mut nbd, CMD_TRIM, 0, BLOCK);
    cluster.ok(&["snapshot", "create", "v@large"]);
    let diff = cluster.json(&["snapshot", "diff", "v@small", "v@large"]);
    assert_eq!((&diff["from_size"], &diff["to_size"]), (&(24 * MIB).into(), &(48 * MIB).into()));
    assert_eq!(extents(&diff), [zero(0, BLOCK), data(30 * MIB, BLOCK)]);
    let back = cluster.json(&["snapshot", "diff", "v@large", "v@small"]);
    assert_eq!(extents(&back), [data(0, BLOCK)], "what lies beyond its end is not told");
}

/// Nothing is asked of what was never written, but how far that goes.
#[test]
fn differences_of_a_volume_of_many_tebibytes_take_no_time() {
    let cluster = Cluster::up(&[]);
    let mut nbd = connect(&cluster.volume("v", "16TiB"));
    let far = (16 << 40) - MIB;
    nbd.write(far, &[1; 4096]).expect("connected").expect("written");
    cluster.ok(&["snapshot", "create", "v@s"]);
    nbd.write(5 << 40, &[2; 4096]).expect("connected").expect("written");
    nbd.write(far, &[2; 4096]).expect("connected").expect("written");
    let begin = Instant::now();
    let diff = cluster.json(&["volume", "diff", "v@s"]);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(extents(&diff), [data(5 << 40, 4096), data(far, 4096)]);
}

#[test]
fn what_a_clone_has_changed_and_in_which_layer_everything_lies_is_told() {
    let cluster = Cluster::up(&[]);
    let mut golden = connect(&cluster.volume("golden", "24MiB"));
    golden.write(0, &[1; 8 * 4096]).expect("connected").expect("written");
    cluster.ok(&["snapshot", "create", "golden@one"]);
    golden.write(8 * MIB, &[2; 4096]).expect("connected").expect("written");
    cluster.ok(&["snapshot", "create", "golden@two"]);
    golden.write(12 * MIB, &[9; 4096]).expect("connected").expect("written");
    cluster.ok(&["volume", "clone", "golden@two", "c"]);
    let export = cluster.attach(&["c"]);
    let mut clone = connect(&export);
    clone.write(16 * MIB + 100, &[3; 10]).expect("connected").expect("written");
    cluster.ok(&["snapshot", "create", "c@mine"]);
    clone.write(2 * BLOCK, &[4; 4096]).expect("connected").expect("written");
    clone.send(CMD_TRIM, 0, 4 * BLOCK, 2 * BLOCK as u32, &[]).expect("connected");
    assert_eq!(clone.receive().expect("connected").1, 0);
    let diff = cluster.json(&["volume", "diff", "c", "--origin"]);
    assert_eq!(
        extents(&diff),
        [data(2 * BLOCK, BLOCK), zero(4 * BLOCK, 2 * BLOCK), data(16 * MIB, BLOCK)],
        "whatever golden has"
    );
    assert_eq!(extents(&cluster.json(&["volume", "diff", "c@mine", "--origin"])), [data(16 * MIB, BLOCK)]);
    let since = [data(2 * BLOCK, BLOCK), zero(4 * BLOCK, 2 * BLOCK)];
    assert_eq!(extents(&cluster.json(&["volume", "diff", "c@mine"])), since);
    let back = cluster.json(&["snapshot", "diff", "c@mine", "c@mine"]);
    assert_eq!(extents(&back), []);
    if missing("allocation depth", &["nbdinfo", "qemu-img"]) {
        return;
    }
    let map = |context: &str| -> Vec<(u64, u64, u64)> {
        let text = run_ok(Command::new("nbdinfo").args(["--json", &format!("--map={context}"), &export.uri]));
        let map: Value = serde_json::from_str(&text).expect("JSON");
        let number = |e: &Value, field: &str| e[field].as_u64().expect("a number");
        let entries = map.as_array().expect("a list").iter();
        entries.map(|e| (number(e, "offset"), number(e, "length"), number(e, "type"))).collect()
    };
    // The clone's top is 1, its snapshot 2, golden@two 3, golden@one 4.
    let depths = [
        (0, 2 * BLOCK, 4),
        (2 * BLOCK, BLOCK, 1),
        (3 * BLOCK, BLOCK, 4),
        (4 * BLOCK, 2 * BLOCK, 1),
        (6 * BLOCK, 2 * BLOCK, 4),
        (8 * BLOCK, 8 * MIB - 8 * BLOCK, 0),
        (8 * MIB, BLOCK, 3),
        (8 * MIB + BLOCK, 8 * MIB - BLOCK, 0),
        (16 * MIB, BLOCK, 2),
        (16 * MIB + BLOCK, 8 * MIB - BLOCK, 0),
    ];
    assert_eq!(map("qemu:allocation-depth"), depths);
    let allocated: Vec<(u64, u64)> =
        map("base:allocation").into_iter().filter(|(.., kind)| *kind == 0).map(|(at, len, _)| (at, len)).collect();
    assert_eq!(allocated, [(0, 4 * BLOCK), (6 * BLOCK, 2 * BLOCK), (8 * MIB, BLOCK), (16 * MIB, BLOCK)]);
    let contexts = run_ok(Command::new("nbdinfo").arg(&export.uri));
    assert!(contexts.contains("base:allocation") && contexts.contains("qemu:allocation-depth"), "{contexts}");
    // QEMU shows three sorts of depth: none, 1, and more.
    let (host, port) = export.address.rsplit_once(':').expect("HOST:PORT");
    let options = format!(
        "driver=nbd,server.type=inet,server.host={host},server.port={port},export=c,x-dirty-bitmap=qemu:allocation-depth"
    );
    let text = run_ok(Command::new("qemu-img").args(["map", "--output=json", "--image-opts", &options]));
    let map: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&map[0]["zero"], &map[0]["data"]), (&true.into(), &true.into()), "it lies below: {text}");
    assert_eq!((&map[1]["zero"], &map[1]["data"]), (&false.into(), &false.into()), "it is the clone's own: {text}");
    // The snapshot's own map begins at the snapshot.
    let snapshot = cluster.attach(&["c@mine"]);
    let text = run_ok(Command::new("nbdinfo").args(["--map=qemu:allocation-depth", &snapshot.uri]));
    assert!(text.lines().next().is_some_and(|line| line.split_whitespace().take(3).eq(["0", "32768", "3"])), "{text}");
}

#[test]
fn mistakes_with_differences_make_one_clear_line() {
    let cluster = Cluster::up(&["--osds", "1"]);
    cluster.ok(&["volume", "create", "v", "--size", "64MiB"]);
    cluster.ok(&["volume", "create", "w", "--size", "64MiB"]);
    cluster.ok(&["snapshot", "create", "v", "s"]);
    cluster.ok(&["snapshot", "create", "w", "s"]);
    let fails = |arguments: &[&str], part: &str| {
        let line = cluster.fails(arguments);
        assert!(line.contains(part), "{arguments:?}: {line}");
    };
    fails(&["snapshot", "diff", "v@s", "v@t"], "snapshot \"v@t\" does not exist");
    fails(&["snapshot", "diff", "v", "t", "s"], "snapshot \"v@t\" does not exist");
    fails(&["snapshot", "diff", "x@s", "x@t"], "volume \"x\" does not exist");
    fails(&["snapshot", "diff", "v@s", "w@s"], "v@s and w@s are of two volumes");
    fails(&["snapshot", "diff", "v@s", "t"], "t is no snapshot's name");
    fails(&["snapshot", "diff", "v@s", "s", "t"], "name two snapshots");
    fails(&["snapshot", "diff", "v", "v@s", "s"], "v is one too many");
    fails(&["volume", "diff", "v"], "name it v@SNAPSHOT");
    fails(&["volume", "diff", "v@t"], "snapshot \"v@t\" does not exist");
    fails(&["volume", "diff", "v", "--origin"], "volume v is no clone");
    assert_eq!(extents(&cluster.json(&["volume", "diff", "v@s"])), []);
    wait_until("nothing is left attached", Duration::from_secs(1), || {
        let shown = cluster.json(&["volume", "show", "v"]);
        if shown["state"] == "available" { Ok(()) } else { Err(shown.to_string()) }
    });
}
