use super::*;
use ashlar_types::DeviceInfo;
use std::num::NonZeroU64;

const BLOCK: usize = BLOCK_BYTES as usize;

/// A disk in memory; every `forgets`th write is answered and dropped.
struct Memory {
    bytes: Mutex<(Vec<u8>, u64)>,
    forgets: u64,
    waits: Duration,
}

impl Memory {
    fn disk(blocks: usize, forgets: u64, waits: Duration) -> Arc<dyn BlockDevice> {
        Arc::new(Memory { bytes: Mutex::new((vec![0; blocks * BLOCK], 0)), forgets, waits })
    }

    fn perform(&self, op: BlockOp) -> BlockReply {
        let mut state = self.bytes.lock().expect("not poisoned");
        match op {
            BlockOp::Read { offset, len } => {
                let at = offset as usize;
                BlockReply::Data(vec![Bytes::copy_from_slice(&state.0[at..at + len as usize])])
            }
            BlockOp::Write { offset, data } => {
                state.1 += 1;
                if !state.1.is_multiple_of(self.forgets) {
                    state.0[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
                }
                BlockReply::Done
            }
            other => panic!("nobody sends {other:?}"),
        }
    }
}

impl BlockDevice for Memory {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { size: 0, read_only: false, description: String::new() }
    }

    fn submit(&self, request: BlockRequest, completions: &Arc<dyn Completions>) {
        let reply = self.perform(request.op);
        let (completions, tag, waits) = (completions.clone(), request.tag, self.waits);
        tokio::spawn(async move {
            tokio::time::sleep(waits).await;
            completions.complete(tag, Ok(reply));
        });
    }
}

fn mixed(requests: u64) -> Job {
    Job {
        write_percent: 60,
        request_bytes: BLOCK_BYTES,
        depth: 8,
        rate: None,
        random: true,
        verify: true,
        blocks: 0..16,
        until: Until::Requests(requests),
        slow: Duration::from_secs(1),
        seed: 5,
    }
}

async fn run_mixed(forgets: u64) -> Result<Outcome, BenchError> {
    run(Memory::disk(16, forgets, Duration::ZERO), mixed(5000), Contents::new(3, 16)).await.0
}

#[tokio::test]
async fn an_honest_disk_passes_and_every_request_is_counted() {
    let outcome = run_mixed(u64::MAX).await.expect("right data");
    assert_eq!((outcome.requests(), outcome.latency.len()), (5000, 5000));
    assert!(outcome.reads > 1500 && outcome.writes > 2500);
}

#[tokio::test]
async fn a_forgotten_write_is_found() {
    assert!(matches!(run_mixed(100).await, Err(BenchError::WrongData { .. })));
}

#[tokio::test]
async fn a_slow_disk_is_listed_and_the_time_is_kept() {
    let disk = Memory::disk(64, u64::MAX, Duration::from_millis(3));
    let job = Job { until: Until::Requests(3), depth: 1, blocks: 0..64, slow: Duration::from_millis(3), ..mixed(0) };
    let outcome = run(disk, job, Contents::new(3, 64)).await.0.expect("answered");
    assert_eq!(outcome.slow.len(), 3);
    assert!(outcome.latency.min() >= 2_900_000, "{}", outcome.latency.min());
}

#[tokio::test]
async fn a_sequential_job_covers_its_range_once() {
    let disk = Memory::disk(64, u64::MAX, Duration::ZERO);
    let job = Job {
        write_percent: 100,
        request_bytes: 4 * BLOCK_BYTES,
        random: false,
        blocks: 0..64,
        until: Until::Requests(16),
        ..mixed(0)
    };
    let (result, contents) = run(disk, job, Contents::new(3, 64)).await;
    result.expect("written");
    assert!(contents.expect("given back").expect(0, 64).iter().all(|writes| *writes == 1));
}

#[tokio::test]
async fn a_rate_is_kept_and_no_more_is_sent() {
    let disk = Memory::disk(64, u64::MAX, Duration::ZERO);
    let rate = NonZeroU64::new(500).map(Rate);
    let job = Job { until: Until::Elapsed(Duration::from_millis(200)), rate, blocks: 0..64, ..mixed(0) };
    let outcome = run(disk, job, Contents::new(3, 64)).await.0.expect("answered");
    assert_eq!((outcome.requests() + outcome.unsent, outcome.latency.len()), (100, outcome.requests()));
    assert!(outcome.requests() > 0);
}

/// 100 requests are due in 100 ms, the disk takes 20 ms for each and one at a time: those that wait are charged for waiting.
#[tokio::test]
async fn what_waits_behind_a_slow_request_is_late_from_when_it_was_due() {
    let disk = Memory::disk(64, u64::MAX, Duration::from_millis(20));
    let rate = NonZeroU64::new(1000).map(Rate);
    let until = Until::Elapsed(Duration::from_millis(100));
    let job = Job { until, rate, depth: 1, blocks: 0..64, ..mixed(0) };
    let outcome = run(disk, job, Contents::new(3, 64)).await.0.expect("answered");
    assert!(outcome.requests() >= 2 && outcome.unsent >= 90, "{outcome:?}");
    // The nth was due n - 1 ms after the first, and is answered 20 n ms after it.
    let expected_ns = 20_000_000 + (outcome.requests() - 1) * 19_000_000;
    assert!(outcome.latency.max() >= expected_ns - 1_000_000, "{outcome:?}");
}
