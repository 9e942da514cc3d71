//! Packs a page of the store's into what is new in it: most of an index page repeats, in steps, what stands an entry before.
//! Nothing depends on the pages' format: of another, this packs less.

/// Of an entry in an index page, whose entries begin behind [`HEAD`].
const STRIDE: usize = 15;
const HEAD: usize = 256;
/// Shorter runs of zeroes cost less as they are.
const ZEROES_MIN: usize = 3;
const RUN_MAX: usize = u8::MAX as usize;

/// Runs of zeroes and of other bytes in turns, each behind its length, of the differences of differences.
pub fn pack(page: &[u8]) -> Box<[u8]> {
    let mut bytes = page.to_vec();
    difference(&mut bytes);
    difference(&mut bytes);
    let mut packed = Vec::with_capacity(512);
    let mut at = 0;
    while at < bytes.len() {
        let zeroes = zeroes_at(&bytes, at);
        packed.push(zeroes as u8);
        at += zeroes;
        let begin = at;
        while at < bytes.len() && at - begin < RUN_MAX && zeroes_at(&bytes, at) < ZEROES_MIN {
            at += 1;
        }
        packed.push((at - begin) as u8);
        packed.extend_from_slice(&bytes[begin..at]);
    }
    packed.into()
}

/// `page` is as long as the one that was packed.
pub fn unpack(packed: &[u8], page: &mut [u8]) {
    page.fill(0);
    let (mut from, mut at) = (0, 0);
    while from < packed.len() {
        at += usize::from(packed[from]);
        let count = usize::from(packed[from + 1]);
        page[at..at + count].copy_from_slice(&packed[from + 2..from + 2 + count]);
        at += count;
        from += 2 + count;
    }
    sum(page);
    sum(page);
}

/// At most [`RUN_MAX`].
fn zeroes_at(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().take(RUN_MAX).take_while(|byte| **byte == 0).count()
}

fn difference(bytes: &mut [u8]) {
    for at in (HEAD + STRIDE..bytes.len()).rev() {
        bytes[at] = bytes[at].wrapping_sub(bytes[at - STRIDE]);
    }
}

fn sum(bytes: &mut [u8]) {
    for at in HEAD + STRIDE..bytes.len() {
        bytes[at] = bytes[at].wrapping_add(bytes[at - STRIDE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(page: &[u8]) -> usize {
        let packed = pack(page);
        let mut unpacked = vec![0x55; page.len()];
        unpack(&packed, &mut unpacked);
        assert!(unpacked == page);
        packed.len()
    }

    #[test]
    fn every_page_comes_back() {
        let mut x = 1u64;
        let mut noise = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 56) as u8
        };
        let random: Vec<u8> = (0..4096).map(|_| noise()).collect();
        let mostly_zero: Vec<u8> = (0..4096).map(|_| if noise() < 250 { 0 } else { noise() }).collect();
        let long_runs: Vec<u8> = (0..4096).map(|at| if at / 700 % 2 == 0 { 0 } else { at as u8 }).collect();
        for page in [random, mostly_zero, long_runs, vec![0; 4096], vec![7; 4096]] {
            round_trip(&page);
        }
    }

    #[test]
    fn entries_that_count_up_pack_well() {
        let mut page = vec![0; 4096];
        for (entry, n) in page[HEAD..].chunks_exact_mut(STRIDE).zip(123_456_u64..) {
            entry[..8].copy_from_slice(&n.to_le_bytes());
            entry[9..13].copy_from_slice(&[1, 2, 3, 4]);
        }
        assert!(round_trip(&page) < 200);
    }
}
