//! Zeroing an eager volume: how fast it is beside a client's large writes, and what a client feels of it.

use super::control::Control;
use super::turns::{self, Compared};
use super::{Found, MIB, PATIENCE, Shape, fresh_cluster};
use crate::accounting::Snapshot;
use crate::error::BenchError;
use crate::figures::Subject;
use crate::library::{Library, Watcher};
use crate::load::{Job, Until};
use crate::measure::{self, KINDS, Kind, make_volume};
use crate::progress;
use crate::sandbox::Sandbox;
use crate::settings::Settings;
use ashlar_types::BLOCK_BYTES;
use ashlar_types::control::Provision;
use ashlar_types::job::{JobInfo, JobState};
use serde_json::json;
use std::time::{Duration, Instant};

const LARGE_WRITE: Kind = KINDS[4];
const _: () = assert!(LARGE_WRITE.is_write && LARGE_WRITE.depth == 8 && LARGE_WRITE.request_bytes == 1 << 20);

/// Requests of the client that are under way.
const DEPTH: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);
/// What a deleted volume leaves on a disk that counts as nothing.
const LEFT_BYTES_MAX: u64 = 32 * MIB;

pub fn run(sandbox: &Sandbox, settings: &Settings, shape: &Shape) -> Result<Found, BenchError> {
    let cluster = fresh_cluster(sandbox, settings, shape, "eager volumes are zeroed")?;
    let control = Control::connect(cluster.mds())?;
    let mut library = make_volume(&cluster, "client", shape.volume_bytes)?;
    measure::fill(&mut library, false)?;
    let empty = Empty::now(library.watcher())?;
    let before = Snapshot::take(Some(&cluster));
    let speeds = turns::take(shape.eager_rounds, 2, |round, thing| {
        progress::say(&format!("speed, round {}, {}", round + 1, ["large writes", "zeroing"][thing]));
        match thing {
            0 => write_speed(&mut library, shape.eager_turn),
            _ => zero_speed(&control, &empty, shape.volume_bytes, round),
        }
    })?;
    let latencies = turns::take(shape.eager_rounds, 2, |round, thing| {
        progress::say(&format!("client, round {}, {} zeroing", round + 1, ["without", "beside"][thing]));
        let job = client(library.blocks(), shape.eager_turn, round as u64);
        match thing {
            0 => p99_us(&mut library, job),
            _ => beside_zeroing(&control, &empty, shape.volume_bytes, round, || p99_us(&mut library, job)),
        }
    })?;
    let usage = before.until(&Snapshot::take(Some(&cluster)), 0.0);
    library.detach()?;
    cluster.down()?;
    let others = usage.others_cores + usage.steal_cores;
    let speed = Compared::of("zeroing beside 1M write QD8", &speeds[0], &speeds[1]);
    let p99 = Compared::of("4k write QD8, p99", &latencies[0], &latencies[1]);
    print!("{}", turns::table("MB/s", std::slice::from_ref(&speed)));
    print!("{}", turns::table("us", std::slice::from_ref(&p99)));
    let figures = vec![speed.figure(Subject::EagerSpeed, 100.0, others), p99.figure(Subject::EagerClient, 1.0, others)];
    let details =
        json!({ "speed": speed, "mb_per_s": speeds, "client": p99, "p99_us": latencies, "others_cores": others });
    Ok(Found { figures, details })
}

/// MB/s.
fn write_speed(library: &mut Library, time: Duration) -> Result<f64, BenchError> {
    let outcome = library.run(LARGE_WRITE.job(library.blocks(), time, false))?;
    Ok(outcome.writes as f64 * f64::from(LARGE_WRITE.request_bytes) / 1e6 / outcome.elapsed.as_secs_f64())
}

/// MB/s, from when a gateway has taken the job until it is done.
fn zero_speed(control: &Control, empty: &Empty, bytes: u64, round: usize) -> Result<f64, BenchError> {
    let name = format!("speed-{round}");
    control.create(&name, bytes, Provision::Eager)?;
    wait_running(control, &name)?;
    let begin = Instant::now();
    control.wait_for("zeroing a volume", PAUSE, |control| Ok(job_of(control, &name)?.is_none().then_some(())))?;
    let seconds = begin.elapsed().as_secs_f64();
    let volume = control.volume(&name)?;
    if volume.provision != Provision::Eager {
        return Err(BenchError::Wrong(format!("{name} is {:?} after it was zeroed", volume.provision)));
    }
    control.delete_volume(&name)?;
    empty.wait()?;
    Ok(bytes as f64 / 1e6 / seconds)
}

fn beside_zeroing<T>(
    control: &Control,
    empty: &Empty,
    bytes: u64,
    round: usize,
    act: impl FnOnce() -> Result<T, BenchError>,
) -> Result<T, BenchError> {
    let name = format!("beside-{round}");
    control.create(&name, bytes, Provision::Eager)?;
    wait_running(control, &name)?;
    let result = act()?;
    let Some(job) = job_of(control, &name)? else {
        return Err(BenchError::Wrong(format!("{name} was zeroed before the client's turn was over; make it larger")));
    };
    control.cancel(job.id)?;
    control.delete_volume(&name)?;
    empty.wait()?;
    Ok(result)
}

fn job_of(control: &Control, volume: &str) -> Result<Option<JobInfo>, BenchError> {
    Ok(control.jobs()?.into_iter().find(|job| job.volume_name.to_string() == volume))
}

/// Gateways ask for jobs every other second.
fn wait_running(control: &Control, volume: &str) -> Result<(), BenchError> {
    control.wait_for("taking a job", PAUSE, |control| {
        Ok(job_of(control, volume)?.filter(|job| job.state == JobState::Running).map(|_| ()))
    })
}

fn client(blocks: u64, time: Duration, seed: u64) -> Job {
    Job {
        write_percent: 100,
        request_bytes: BLOCK_BYTES,
        depth: DEPTH,
        rate: None,
        random: true,
        verify: false,
        blocks: 0..blocks,
        until: Until::Elapsed(time),
        slow: Duration::from_secs(1),
        seed,
    }
}

fn p99_us(library: &mut Library, job: Job) -> Result<f64, BenchError> {
    Ok(library.run(job)?.latency.value_at_quantile(0.99) as f64 / 1e3)
}

/// What is used without any eager volume.
struct Empty {
    watcher: Watcher,
    used: u64,
}

impl Empty {
    fn now(watcher: Watcher) -> Result<Empty, BenchError> {
        // OSDs tell with their heartbeats.
        std::thread::sleep(Duration::from_secs(2));
        let used = used(&watcher)?;
        Ok(Empty { watcher, used })
    }

    /// Until what was deleted has given its space back, so that the next turn finds the disks as the first did.
    fn wait(&self) -> Result<(), BenchError> {
        let begin = Instant::now();
        while used(&self.watcher)? > self.used + LEFT_BYTES_MAX {
            if begin.elapsed() > PATIENCE {
                let what = "giving the space of a deleted volume back".to_owned();
                return Err(BenchError::Late { what, waited: PATIENCE });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn used(watcher: &Watcher) -> Result<u64, BenchError> {
    Ok(watcher.usage()?.into_iter().map(|(used, _)| used).sum())
}
