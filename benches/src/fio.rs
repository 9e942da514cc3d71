//! Runs fio and reads what it says.

use crate::error::BenchError;
use crate::sandbox::Sandbox;
use serde_json::Value;
use std::process::Command;

/// What one fio job came to. Latencies in microseconds.
#[derive(Clone, Debug)]
pub struct FioOutcome {
    pub requests: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub mean: f64,
    pub p50: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
    /// Processor seconds of fio itself.
    pub cpu_seconds: f64,
}

/// Runs `fio --name=x ARGS`.
pub fn run(sandbox: &Sandbox, args: &[String]) -> Result<FioOutcome, BenchError> {
    let mut command = Command::new("fio");
    // Without the last, a job that verifies leaves a file in the current folder.
    command.arg("--name=bench").arg("--output-format=json").arg("--verify_state_save=0").args(args);
    let printed = sandbox.run(&mut command)?;
    // Warnings may stand before the JSON.
    let begin = printed.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let wrong = |reason: String| BenchError::Output { command: format!("fio {}", args.join(" ")), reason };
    let value: Value = serde_json::from_slice(&printed[begin..]).map_err(|error| wrong(error.to_string()))?;
    let job = &value["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        return Err(wrong(format!("error {}", job["error"])));
    }
    parse(job).ok_or_else(|| wrong("figures are missing".to_owned()))
}

fn parse(job: &Value) -> Option<FioOutcome> {
    let direction = if job["read"]["total_ios"].as_u64()? > 0 { &job["read"] } else { &job["write"] };
    let latency = &direction["clat_ns"];
    let percentile = |name: &str| latency["percentile"][name].as_f64().unwrap_or(0.0) / 1e3;
    let cpu_percent = job["usr_cpu"].as_f64()? + job["sys_cpu"].as_f64()?;
    Some(FioOutcome {
        requests: direction["total_ios"].as_u64()?,
        bytes: direction["io_bytes"].as_u64()?,
        seconds: direction["runtime"].as_f64()? / 1e3,
        mean: latency["mean"].as_f64()? / 1e3,
        p50: percentile("50.000000"),
        p99: percentile("99.000000"),
        p99_9: percentile("99.900000"),
        max: latency["max"].as_f64()? / 1e3,
        cpu_seconds: cpu_percent / 100.0 * job["job_runtime"].as_f64()? / 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_direction_that_ran_is_read() {
        let job = json!({
            "read": { "total_ios": 0 },
            "write": {
                "total_ios": 10, "io_bytes": 40960, "runtime": 2000,
                "clat_ns": { "mean": 1500.0, "max": 9000, "percentile": { "50.000000": 1000, "99.000000": 8000 } }
            },
            "usr_cpu": 10.0, "sys_cpu": 15.0, "job_runtime": 2000, "error": 0
        });
        let outcome = parse(&job).expect("whole");
        assert_eq!((outcome.requests, outcome.bytes), (10, 40960));
        assert!((outcome.cpu_seconds - 0.5).abs() < 1e-9 && (outcome.mean - 1.5).abs() < 1e-9);
        assert!((outcome.p50 - 1.0).abs() < 1e-9 && outcome.p99_9 == 0.0);
    }
}
