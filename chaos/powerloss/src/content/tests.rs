use super::*;

fn lost(seed: u64, prepare: impl Fn(&mut Content)) -> (Content, ContentLoss) {
    let mut content = Content::default();
    prepare(&mut content);
    let loss = content.lose(&Fate::new(seed, 2));
    assert!(content.is_synced(), "after a loss nothing is at stake");
    (content, loss)
}

fn all(content: &Content) -> Vec<u8> {
    content.read(0, usize::try_from(content.size()).expect("small"))
}

#[test]
fn each_subset_of_sectors_may_survive_of_an_unsynced_write() {
    let mut seen = BTreeSet::new();
    for seed in 0..2000 {
        let (content, loss) = lost(seed, |content| {
            content.write(1, 0, &[1; 4096]);
            content.sync();
            content.write(2, 0, &[2; 2048]);
        });
        assert_eq!(loss.unsynced_bytes, 2048);
        let bytes = all(&content);
        assert!(bytes[2048..].iter().all(|&byte| byte == 1), "the sectors not written stay");
        let survivors: Vec<bool> = bytes[..2048].chunks(512).map(|sector| sector == [2; 512]).collect();
        let lost_sectors = survivors.iter().filter(|&&survived| !survived).count() as u64;
        assert_eq!(loss.lost_bytes, lost_sectors * 512);
        seen.insert(survivors);
    }
    assert_eq!(seen.len(), 16);
}

#[test]
fn unsynced_writes_survive_in_any_order_and_the_newest_survivor_wins() {
    let mut seen = BTreeSet::new();
    for seed in 0..500 {
        let (content, _) = lost(seed, |content| {
            content.write(1, 0, &[1; 8192]);
            content.sync();
            content.write(2, 0, &[2; 512]);
            content.write(3, 0, &[3; 512]);
            content.write(4, 4096, &[4; 512]);
        });
        let bytes = all(&content);
        seen.insert((bytes[0], bytes[4096]));
    }
    let all_outcomes: BTreeSet<(u8, u8)> = [(1, 1), (2, 1), (3, 1), (1, 4), (2, 4), (3, 4)].into();
    assert_eq!(seen, all_outcomes);
}

#[test]
fn an_append_may_lose_its_data_its_size_both_or_neither() {
    let mut seen = BTreeSet::new();
    for seed in 0..500 {
        let (content, _) = lost(seed, |content| {
            content.write(1, 0, &[1; 100]);
            content.sync();
            content.write(2, 100, &[2; 100]);
        });
        let bytes = all(&content);
        assert_eq!(bytes[..100], [1; 100], "synced bytes that share a sector with the append survive");
        seen.insert((bytes.len(), bytes.get(100).copied()));
    }
    assert_eq!(seen, [(100, None), (200, Some(0)), (200, Some(2))].into());
}

#[test]
fn a_truncation_survives_whole_or_takes_what_followed_with_it() {
    let mut seen = BTreeSet::new();
    for seed in 0..500 {
        let (content, _) = lost(seed, |content| {
            content.write(1, 0, &[1; 10_000]);
            content.sync();
            content.truncate(2, 0);
            content.write(3, 0, &[3; 600]);
        });
        let bytes = all(&content);
        if bytes.len() == 10_000 {
            assert!(bytes.iter().all(|&byte| byte == 1), "without the truncation, nothing after it");
        } else {
            assert!(bytes.iter().all(|&byte| byte == 0 || byte == 3), "with it, nothing before it");
        }
        seen.insert(bytes.len());
    }
    assert_eq!(seen, [0, 600, 10_000].into());
}

#[test]
fn a_file_shrunk_and_grown_again_reads_zeroes_between() {
    let mut content = Content::default();
    content.write(1, 0, &[1; 5000]);
    content.truncate(2, 100);
    content.grow(3, 5000);
    let bytes = all(&content);
    assert!(bytes[..100] == [1; 100] && bytes[100..].iter().all(|&byte| byte == 0));
}

#[test]
fn dsync_covers_its_sectors_only() {
    for seed in 0..200 {
        let (content, _) = lost(seed, |content| {
            content.write(1, 0, &[1; 4096]);
            content.sync();
            content.write(2, 0, &[2; 4096]);
            content.write(3, 1024, &[3; 512]);
            content.sync_range(1024, 512);
        });
        assert_eq!(content.read(1024, 512), [3; 512]);
    }
}

#[test]
fn sparse_files_cost_what_is_written() {
    let mut content = Content::default();
    content.grow(1, 1 << 40);
    content.write(2, 1 << 39, &[1; 4096]);
    content.write(3, 0, &[0; 1 << 16]);
    content.sync();
    assert_eq!(content.stored_bytes(), 4096);
    content.zero(4, 0, 1 << 40);
    content.sync();
    assert_eq!((content.stored_bytes(), content.size()), (0, 1 << 40));
}

#[test]
fn a_log_appended_to_without_sync_keeps_few_versions() {
    let mut content = Content::default();
    for write in 0..10_000 {
        content.write(write, write * 10, &[1; 10]);
    }
    assert!(content.slots.values().all(|slot| slot.versions.len() <= VERSIONS_MAX));
    assert!(content.resizes.len() <= RESIZES_MAX);
    let loss = content.lose(&Fate::new(1, 1));
    assert!(loss.unsynced_bytes >= 100_000);
}

/// The promise itself, over random histories: synced bytes survive, and an unsynced sector holds one of its versions.
#[test]
fn random_histories_keep_what_was_synced() {
    for seed in 0..3000 {
        let dice = Fate::new(seed, 99);
        let mut draw = 0_u64;
        let mut roll = |max: u64| {
            draw += 1;
            dice.up_to((max << 20) | draw) % (max + 1)
        };
        let mut content = Content::default();
        let mut possible: Vec<BTreeSet<u8>> = vec![[0].into(); 64];
        content.grow(0, 64 * 512);
        content.sync();
        for write in 1..=40 {
            let first = roll(60);
            let count = 1 + roll(3);
            match roll(9) {
                0 => {
                    content.sync();
                    possible
                        .iter_mut()
                        .for_each(|sector| *sector = sector.iter().next_back().copied().into_iter().collect());
                }
                1 => {
                    content.write(write, first * 512, &vec![write as u8; count as usize * 512]);
                    content.sync_range(first * 512, count * 512);
                    (first..first + count).for_each(|s| possible[s as usize] = [write as u8].into());
                }
                _ => {
                    content.write(write, first * 512, &vec![write as u8; count as usize * 512]);
                    (first..first + count).for_each(|s| {
                        possible[s as usize].insert(write as u8);
                    });
                }
            }
        }
        content.lose(&Fate::new(seed, 7));
        let bytes = all(&content);
        for (sector, found) in bytes.chunks(512).enumerate() {
            assert!(found.iter().all(|byte| *byte == found[0]), "seed {seed}: a sector is never torn");
            assert!(possible[sector].contains(&found[0]), "seed {seed}, sector {sector}: {} of {possible:?}", found[0]);
        }
    }
}
