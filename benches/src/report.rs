//! Figures as a table for people and as JSON for programs.

use crate::accounting::Usage;
use crate::fio::FioOutcome;
use crate::load::Outcome;
use serde::Serialize;
use std::fmt::Write as _;

/// One job measured one way.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `4k write QD32`.
    pub job: String,
    pub path: Path,
    pub depth: usize,
    pub iops: f64,
    /// 10^6 bytes a second.
    pub mb_per_s: f64,
    /// Microseconds from sending to completion.
    pub latency: Latency,
    /// Microseconds of processor time for each request.
    pub cpu: Cpu,
    /// Bytes written to the disks for each byte that the client wrote, by copies; writes only.
    pub device_bytes_per_client_byte_per_copy: Option<f64>,
    /// Flushes of each disk for each write.
    pub flushes_per_write_per_copy: Option<f64>,
    /// IOPS divided by those of the raw device in this run.
    pub of_raw: Option<f64>,
    /// Processors that others kept busy meanwhile, and that the host took away.
    pub others_cores: f64,
    pub steal_cores: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    Raw,
    Library,
    Nbd,
    Ceph,
}

impl Path {
    pub fn name(self) -> &'static str {
        match self {
            Path::Raw => "raw",
            Path::Library => "library",
            Path::Nbd => "nbd",
            Path::Ceph => "ceph",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cpu {
    /// Of all processes: OSDs, metadata node, gateway and client.
    pub all: f64,
    pub osds: f64,
    pub mds: f64,
    pub gateway: f64,
    pub client: f64,
    /// Kernel threads, which `all` leaves out; they do the work of loop devices.
    pub kernel_threads: f64,
}

impl Row {
    pub fn new(job: &str, path: Path, depth: usize, requests: u64, bytes: u64, seconds: f64, usage: &Usage) -> Row {
        let count = (requests as f64).max(1.0);
        let each = |cpu_seconds: f64| cpu_seconds * 1e6 / count;
        Row {
            job: job.to_owned(),
            path,
            depth,
            iops: requests as f64 / seconds,
            mb_per_s: bytes as f64 / seconds / 1e6,
            latency: Latency::default(),
            cpu: Cpu {
                all: each(usage.processes()),
                osds: each(usage.osds),
                mds: each(usage.mds),
                gateway: each(usage.gateway),
                client: each(usage.client),
                kernel_threads: each(usage.kernel_threads),
            },
            device_bytes_per_client_byte_per_copy: None,
            flushes_per_write_per_copy: None,
            of_raw: None,
            others_cores: usage.others_cores,
            steal_cores: usage.steal_cores,
        }
    }

    pub fn with_writes(mut self, writes: u64, bytes: u64, copies: usize, usage: &Usage) -> Row {
        if writes > 0 {
            let copies = copies as f64;
            let per_byte = |device: u64| device as f64 / bytes as f64 / copies;
            let per_write = |flushes: u64| flushes as f64 / writes as f64 / copies;
            self.device_bytes_per_client_byte_per_copy = usage.device_bytes.map(per_byte);
            self.flushes_per_write_per_copy = usage.flushes.map(per_write);
        }
        self
    }

    /// Processors that were not there for this: others' work, and what the host took.
    pub fn disturbance(&self) -> f64 {
        self.others_cores + self.steal_cores
    }

    /// Microseconds of wall-clock time for one request at a time.
    pub fn wall_us(&self) -> f64 {
        1e6 / self.iops
    }
}

impl From<&Outcome> for Latency {
    fn from(outcome: &Outcome) -> Latency {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |quantile: f64| us(outcome.latency.value_at_quantile(quantile));
        Latency {
            mean: outcome.latency.mean() / 1e3,
            p50: at(0.5),
            p99: at(0.99),
            p99_9: at(0.999),
            max: us(outcome.latency.max()),
        }
    }
}

impl From<&FioOutcome> for Latency {
    fn from(outcome: &FioOutcome) -> Latency {
        let FioOutcome { mean, p50, p99, p99_9, max, .. } = *outcome;
        Latency { mean, p50, p99, p99_9, max }
    }
}

const HEADER: [&str; 18] = [
    "job",
    "path",
    "IOPS",
    "MB/s",
    "mean",
    "p50",
    "p99",
    "p99.9",
    "max us",
    "cpu us/io",
    "osds",
    "gw",
    "client",
    "kernel",
    "dev B/B",
    "flush/w",
    "of raw",
    "others",
];

/// A table with one line for each row; latencies and processor time in microseconds.
pub fn table(rows: &[Row]) -> String {
    let mut cells: Vec<Vec<String>> = vec![HEADER.iter().map(|&cell| cell.to_owned()).collect()];
    cells.extend(rows.iter().map(cells_of));
    render(&cells)
}

fn cells_of(row: &Row) -> Vec<String> {
    let optional = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let us = |value: f64| match value {
        value if value.is_nan() => "-".to_owned(),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    };
    let Row { latency, cpu, .. } = row;
    let mut cells =
        vec![row.job.clone(), row.path.name().to_owned(), format!("{:.0}", row.iops), format!("{:.0}", row.mb_per_s)];
    // fio's nbd engine sends inside its own queueing, so its latency at one request at a time says little.
    let mean = if row.path == Path::Nbd && row.depth == 1 { row.wall_us() } else { latency.mean };
    cells.extend([mean, latency.p50, latency.p99, latency.p99_9, latency.max].map(us));
    cells.extend([cpu.all, cpu.osds, cpu.gateway, cpu.client, cpu.kernel_threads].map(us));
    cells.push(optional(row.device_bytes_per_client_byte_per_copy));
    cells.push(optional(row.flushes_per_write_per_copy));
    cells.push(optional(row.of_raw));
    let steal = if row.steal_cores >= 0.01 { format!("+{:.2} steal", row.steal_cores) } else { String::new() };
    cells.push(format!("{:.2}{steal}", row.others_cores));
    cells
}

/// Columns as wide as they must be: the first two to the left, numbers to the right.
pub fn render(cells: &[Vec<String>]) -> String {
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in cells {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = if column < 2 { write!(line, "{cell:<width$}  ") } else { write!(line, "{cell:>width$}  ") };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A figure beside what is wanted.
#[derive(Clone, Debug, Serialize)]
pub struct Bar {
    pub what: String,
    pub measured: f64,
    pub bar: f64,
    pub met: bool,
    pub unit: &'static str,
}

impl Bar {
    pub fn at_most(what: impl Into<String>, measured: f64, bar: f64, unit: &'static str) -> Bar {
        Bar { what: what.into(), measured, bar, met: measured <= bar, unit }
    }
}

pub fn bars(bars: &[Bar]) -> String {
    let mut cells = vec![["figure", "verdict", "measured", "bar", "unit"].map(str::to_owned).to_vec()];
    let number = |value: f64| if value.abs() < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") };
    for bar in bars {
        let verdict = if bar.met { "met" } else { "MISSED" };
        let (measured, wanted) = (number(bar.measured), format!("<= {}", number(bar.bar)));
        cells.push(vec![bar.what.clone(), verdict.to_owned(), measured, wanted, bar.unit.to_owned()]);
    }
    render(&cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage() -> Usage {
        Usage { seconds: 2.0, osds: 0.3, client: 0.1, device_bytes: Some(24_000), flushes: Some(6), ..Usage::default() }
    }

    #[test]
    fn figures_are_per_request_and_per_copy() {
        let row =
            Row::new("4k write QD1", Path::Library, 1, 2, 8_000, 2.0, &usage()).with_writes(2, 8_000, 3, &usage());
        assert!((row.iops - 1.0).abs() < 1e-9 && (row.wall_us() - 1e6).abs() < 1e-3);
        assert!((row.cpu.all - 200_000.0).abs() < 1e-3 && (row.cpu.osds - 150_000.0).abs() < 1e-3);
        assert_eq!(row.device_bytes_per_client_byte_per_copy, Some(1.0));
        assert_eq!(row.flushes_per_write_per_copy, Some(1.0));
        let text = table(&[row]);
        assert!(text.lines().count() == 2 && text.contains("library"), "{text}");
    }

    #[test]
    fn a_missed_bar_shouts() {
        let text = bars(&[Bar::at_most("resync", 6.0, 5.0, "s"), Bar::at_most("stall", 0.5, 1.0, "s")]);
        assert!(text.contains("MISSED") && text.contains("met"), "{text}");
    }
}
