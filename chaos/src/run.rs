//! Runs seeds, one or many, and says what was found.

use crate::aim::Aim;
use crate::check::Violation;
use crate::plant::Plant;
use crate::world::{Stats, World};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, mpsc};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub plant: Option<Plant>,
    /// `None`: the seed draws its own.
    pub aim: Option<Aim>,
    /// Draws the aim as if this bug were planted: the same faults for the honest core.
    pub aim_as_if: Option<Plant>,
    /// Prints the event log.
    pub trace: bool,
}

/// What was found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The history is not linearizable.
    History(Vec<Violation>),
    /// It did not heal.
    Stuck(String),
    /// An answer that must not be given.
    Answers(String),
    /// Members differ, space is lost.
    Stores(String),
    /// A process stopped itself without cause.
    Stopped(String),
    /// The cluster could not even be made.
    Setup(String),
    /// An assertion failed.
    Panic(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::History(violations) => {
                let first = violations.first().map(ToString::to_string).unwrap_or_default();
                write!(f, "{} blocks are not linearizable; {first}", violations.len())
            }
            Reason::Stuck(text) => write!(f, "stuck: {text}"),
            Reason::Answers(text) => write!(f, "wrong answer: {text}"),
            Reason::Stores(text) => write!(f, "stores: {text}"),
            Reason::Stopped(text) => write!(f, "stopped: {text}"),
            Reason::Setup(text) => write!(f, "set-up: {text}"),
            Reason::Panic(text) => write!(f, "panic: {text}"),
        }
    }
}

#[derive(Clone, Debug)]
pub struct SeedReport {
    pub seed: u64,
    pub options: Options,
    pub stats: Stats,
    pub failure: Option<Reason>,
}

impl SeedReport {
    /// The command that does the same again.
    pub fn replay(&self) -> String {
        let mut line = format!("ashlar chaos sim --seed {}", self.seed);
        if let Some(plant) = self.options.plant {
            line.push_str(&format!(" --plant {plant}"));
        }
        if let Some(aim) = self.options.aim {
            line.push_str(&format!(" --aim {aim}"));
        }
        line
    }
}

impl fmt::Display for SeedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failure {
            None => write!(f, "seed {}: good, {:?}", self.seed, self.stats),
            Some(reason) => write!(f, "{}: {reason}", self.replay()),
        }
    }
}

/// Of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    /// In order of their seeds.
    pub failures: Vec<SeedReport>,
    pub events: u64,
    pub requests: u64,
    pub registers: u64,
    pub unknown: u64,
    pub crashes: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seeds, {} failed", self.seeds, self.failures.len())
    }
}

thread_local! {
    static PANIC_TEXT: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
    static ON_PANIC: std::cell::RefCell<Option<OnPanic>> = const { std::cell::RefCell::new(None) };
}

/// What a thread does when a core asserts.
type OnPanic = Box<dyn Fn(String)>;

/// Keeps the text of a panic in a simulated process, instead of printing it. In a program built to abort on panic, the thread tells
/// who waits for it and then stands still for ever: the next seed gets another thread.
fn catch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let told = ON_PANIC.with_borrow(|tell| {
                if let Some(tell) = tell {
                    tell(info.to_string());
                }
                tell.is_some()
            });
            if !told {
                default(info);
            } else if cfg!(panic = "abort") {
                loop {
                    std::thread::park();
                }
            }
        }));
    });
}

/// Simulates one seed on this thread.
fn simulate(seed: u64, options: Options) -> SeedReport {
    let mut stats = Stats::default();
    let run = AssertUnwindSafe(|| {
        let mut world = World::new(seed, options);
        let result = world.run();
        stats = world.stats;
        result
    });
    let failure = match std::panic::catch_unwind(run) {
        Ok(result) => result.err(),
        Err(_) => Some(Reason::Panic(PANIC_TEXT.take())),
    };
    SeedReport { seed, options, stats, failure }
}

/// Simulates one seed. The same seed and options give the same report, always.
pub fn run_seed(seed: u64, options: Options) -> SeedReport {
    let mut reports = Vec::new();
    run_seeds(&mut std::iter::once(seed), options, 1, |report| reports.push(report));
    reports.pop().expect("each seed gives a report")
}

/// Simulates seeds from `first` on, `jobs` at a time; `progress` hears of each when it is done.
pub fn run(first: u64, count: u64, options: Options, jobs: usize, mut progress: impl FnMut(&SeedReport)) -> Summary {
    let mut summary = Summary::default();
    // Behind the last of all seeds there is none.
    let mut seeds = (0..count).map_while(|n| first.checked_add(n));
    run_seeds(&mut seeds, options, jobs, |report| {
        summary.seeds += 1;
        summary.events += report.stats.events;
        summary.requests += report.stats.requests;
        summary.registers += report.stats.registers;
        summary.unknown += report.stats.unknown;
        summary.crashes += report.stats.crashes;
        progress(&report);
        if report.failure.is_some() {
            summary.failures.push(report);
        }
    });
    summary.failures.sort_by_key(|r| r.seed);
    summary
}

/// After how many of these seeds the planted bug was found, if it was. A seed that fails without the bug too shows nothing
/// of it and doesn't count.
pub fn find_plant(plant: Plant, seeds: std::ops::Range<u64>, jobs: usize) -> Option<(u64, SeedReport)> {
    let planted = Options { plant: Some(plant), ..Options::default() };
    let honest = Options { aim_as_if: Some(plant), ..Options::default() };
    let mut first = seeds.start;
    while first < seeds.end {
        let batch = (seeds.end - first).min(jobs.max(1) as u64 * 4);
        for report in run(first, batch, planted, jobs, |_| {}).failures {
            if run_seed(report.seed, honest).failure.is_none() {
                return Some((report.seed + 1 - seeds.start, report));
            }
        }
        first += batch;
    }
    None
}

fn run_seeds(seeds: &mut dyn Iterator<Item = u64>, options: Options, jobs: usize, mut done: impl FnMut(SeedReport)) {
    catch_panics();
    let (results, arrived) = mpsc::channel::<SeedReport>();
    let mut running = 0;
    loop {
        while running < jobs.max(1) {
            let Some(seed) = seeds.next() else { break };
            start(seed, options, results.clone());
            running += 1;
        }
        if running == 0 {
            return;
        }
        let report = arrived.recv().expect("a sender is kept here");
        running -= 1;
        done(report);
    }
}

/// A thread for each seed costs microseconds, and a seed that panics takes nothing with it.
fn start(seed: u64, options: Options, results: mpsc::Sender<SeedReport>) {
    let body = move || {
        let tell = Mutex::new(results.clone());
        let on_panic = move |text: String| {
            if cfg!(panic = "abort") {
                let failure = Some(Reason::Panic(text));
                let report = SeedReport { seed, options, stats: Stats::default(), failure };
                // Nobody listens any more: then nobody wants to know.
                let _ = tell.lock().expect("held for one send only").send(report);
            } else {
                PANIC_TEXT.set(text);
            }
        };
        ON_PANIC.set(Some(Box::new(on_panic)));
        let report = simulate(seed, options);
        ON_PANIC.set(None);
        let _ = results.send(report);
    };
    let builder = std::thread::Builder::new().name(format!("seed {seed}")).stack_size(8 << 20);
    builder.spawn(body).expect("the machine can start a thread");
}
