//! `ashlar perf`: where the time of requests goes, by the histograms that OSDs keep and tell the metadata service. What the stages mean stands
//! in docs/operate.md.

use crate::args::PerfArgs;
use crate::control::Control;
use crate::error::CliError;
use crate::output::{Output, Table, print_to_reader};
use ashlar_types::perf::{OsdPerf, PerfReport, Stage, Unit};
use ashlar_types::view::ClusterView;
use ashlar_types::{BootId, Histogram, OsdId};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

pub async fn run(control: &Control, args: &PerfArgs, as_json: bool) -> Result<Output, CliError> {
    let Some(seconds) = args.watch else {
        return Ok(look(control, args.osd()).await?.output(None));
    };
    let mut before = look(control, args.osd()).await?;
    let mut shown = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let now = look(control, args.osd()).await?;
        let mut output = now.since(&before).output(Some(seconds));
        if shown > 0 {
            output.human.insert(0, '\n');
        }
        before = now;
        shown += 1;
        if args.times == Some(shown) {
            return Ok(output);
        }
        let is_read = print_to_reader(&if as_json { output.json.to_string() } else { output.human });
        if !is_read.map_err(|source| CliError::System { what: "cannot print", source })? {
            return Ok(Output::new("", Value::Null));
        }
    }
}

/// What is known at one time.
#[derive(Clone, Debug)]
struct Snapshot {
    osds: BTreeMap<OsdId, Osd>,
    /// Only of this one.
    only: Option<OsdId>,
}

#[derive(Clone, Debug)]
struct Osd {
    is_up: bool,
    /// The process that has told; none if nothing is known of it.
    boot: Option<BootId>,
    stages: PerfReport,
}

async fn look(control: &Control, only: Option<OsdId>) -> Result<Snapshot, CliError> {
    let view = control.view().await?;
    if let Some(osd) = only.filter(|osd| !view.osds.contains_key(osd)) {
        let have = view.osds.keys().map(OsdId::to_string).collect::<Vec<_>>().join(", ");
        return Err(CliError::Conflict { what: format!("{osd} does not exist; the cluster has {have}") });
    }
    Ok(Snapshot::new(&view, control.perf().await?, only))
}

impl Snapshot {
    fn new(view: &ClusterView, told: Vec<OsdPerf>, only: Option<OsdId>) -> Snapshot {
        let mut told: BTreeMap<OsdId, OsdPerf> = told.into_iter().map(|perf| (perf.osd, perf)).collect();
        let of = |(id, info): (&OsdId, &ashlar_types::view::OsdInfo)| {
            let perf = told.remove(id);
            let boot = perf.as_ref().map(|perf| perf.boot);
            (*id, Osd { is_up: info.up, boot, stages: perf.map(|perf| perf.stages).unwrap_or_default() })
        };
        let osds = view.osds.iter().filter(|(id, _)| only.is_none_or(|only| only == **id)).map(of).collect();
        Snapshot { osds, only }
    }

    /// What has come after `before`. A process that has started since has begun from nothing.
    fn since(&self, before: &Snapshot) -> Snapshot {
        let mut later = self.clone();
        for (id, osd) in &mut later.osds {
            let Some(earlier) = before.osds.get(id).filter(|earlier| earlier.boot == osd.boot) else { continue };
            for (stage, histogram) in &mut osd.stages {
                if let Some(earlier) = earlier.stages.get(stage) {
                    *histogram = histogram.since(earlier);
                }
            }
        }
        later
    }

    fn sum(&self) -> PerfReport {
        let mut sum = PerfReport::new();
        for (stage, histogram) in self.osds.values().flat_map(|osd| &osd.stages) {
            sum.entry(*stage).or_default().merge(histogram);
        }
        sum
    }

    fn output(&self, seconds: Option<u64>) -> Output {
        let span = seconds.map_or("since its start".to_owned(), |seconds| format!("in {seconds} s"));
        let mut parts = Vec::new();
        if self.only.is_none() {
            parts.push(section("cluster", &span.replace("its", "each OSD's"), &self.sum()));
        }
        for (id, osd) in &self.osds {
            let title = if osd.is_up { id.to_string() } else { format!("{id} (down)") };
            parts.push(section(&title, &span, &osd.stages));
        }
        let osds = self.osds.iter().map(|(id, osd)| {
            let boot = osd.boot.map(|boot| boot.to_string());
            json!({ "id": id.0, "up": osd.is_up, "boot": boot, "stages": stages_json(&osd.stages) })
        });
        let mut json = json!({ "seconds": seconds, "osds": osds.collect::<Vec<_>>() });
        if self.only.is_none() {
            json["cluster"] = stages_json(&self.sum());
        }
        Output::new(parts.join("\n"), json)
    }
}

fn section(title: &str, span: &str, stages: &PerfReport) -> String {
    let mut table = Table::new(&["STAGE", "COUNT", "MEAN", "P50", "P99", "P99.9", "MAX"]);
    let mut is_empty = true;
    for stage in Stage::ALL {
        let Some(histogram) = stages.get(&stage).filter(|histogram| histogram.count() > 0) else { continue };
        is_empty = false;
        let show = |value: f64| match stage.unit() {
            Unit::Microseconds => micros(value),
            Unit::Messages => format!("{value:.1}"),
        };
        let name = if stage.is_part() { format!("  {}", stage.name()) } else { stage.name().to_owned() };
        let quantiles = [500, 990, 999].map(|thousandths| show(histogram.quantile(thousandths) as f64));
        let cells = [name, histogram.count().to_string(), show(histogram.mean())];
        table.row(cells.into_iter().chain(quantiles).chain([show(histogram.max() as f64)]));
    }
    if is_empty {
        return format!("{title}: nothing {span}\n");
    }
    format!("{title}, {span}\n{}", table.render())
}

/// Three digits are more than the buckets tell apart.
fn micros(value: f64) -> String {
    match value {
        v if v < 9.95 => format!("{v:.1}us"),
        v if v < 9_999.5 => format!("{v:.0}us"),
        v if v < 9_999_500.0 => format!("{:.1}ms", v / 1e3),
        v => format!("{:.1}s", v / 1e6),
    }
}

/// All stages, so that programs need not ask whether there is one.
fn stages_json(stages: &PerfReport) -> Value {
    let empty = Histogram::default();
    let of = |stage: Stage| {
        let histogram = stages.get(&stage).unwrap_or(&empty);
        let unit = match stage.unit() {
            Unit::Microseconds => "us",
            Unit::Messages => "messages",
        };
        let value = json!({
            "unit": unit,
            "count": histogram.count(),
            "sum": histogram.sum(),
            "mean": histogram.mean(),
            "p50": histogram.quantile(500),
            "p99": histogram.quantile(990),
            "p999": histogram.quantile(999),
            "max": histogram.max(),
        });
        (stage.name().to_owned(), value)
    };
    Value::Object(Stage::ALL.into_iter().map(of).collect::<Map<String, Value>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::view::OsdInfo;

    fn histogram(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.add(*value));
        histogram
    }

    /// Of osd.1 and osd.2, of which the first has told of these writes.
    fn snapshot(boot: u64, writes: &[u64], only: Option<u32>) -> Snapshot {
        let info = |id: u32| OsdInfo {
            id: OsdId(id),
            boot: BootId(boot),
            up: id == 1,
            address: String::new(),
            host: String::new(),
            capacity: 0,
        };
        let view = ClusterView { osds: [1, 2].map(|id| (OsdId(id), info(id))).into(), ..ClusterView::default() };
        let stages = PerfReport::from([(Stage::Write, histogram(writes)), (Stage::WriteAdmit, histogram(writes))]);
        let told = vec![OsdPerf { osd: OsdId(1), boot: BootId(boot), stages }];
        Snapshot::new(&view, told, only.map(OsdId))
    }

    #[test]
    fn times_are_short_and_have_their_unit() {
        let texts = [0.0, 3.26, 183.4, 9999.0, 12_345.0, 10_000_000.0].map(micros);
        assert_eq!(texts, ["0.0us", "3.3us", "183us", "9999us", "12.3ms", "10.0s"]);
    }

    #[test]
    fn people_see_what_there_is_and_programs_see_all() {
        let output = snapshot(7, &[100, 200], None).output(None);
        let first = "cluster, since each OSD's start\nSTAGE          COUNT  MEAN   P50";
        assert!(output.human.starts_with(first), "{}", output.human);
        assert!(output.human.contains("\n  write.admit  2      150us"), "{}", output.human);
        assert!(output.human.ends_with("\nosd.2 (down): nothing since its start\n"), "{}", output.human);
        let json = &output.json;
        assert_eq!((&json["cluster"]["write"]["count"], &json["cluster"]["write"]["max"]), (&json!(2), &json!(200)));
        assert_eq!((&json["osds"][1]["stages"]["read"]["count"], &json["osds"][1]["boot"]), (&json!(0), &Value::Null));
        let one = snapshot(7, &[100], Some(2)).output(Some(3));
        assert_eq!(
            (one.human.as_str(), one.json["osds"].as_array().map(Vec::len)),
            ("osd.2 (down): nothing in 3 s\n", Some(1))
        );
        assert_eq!(one.json.get("cluster"), None);
    }

    #[test]
    fn an_interval_has_what_came_in_it_also_of_a_process_that_started_in_it() {
        let before = snapshot(7, &[100, 200], None);
        let count = |snapshot: &Snapshot| snapshot.sum()[&Stage::Write].count();
        assert_eq!(count(&snapshot(7, &[100, 200, 300], None).since(&before)), 1);
        assert_eq!(count(&snapshot(8, &[5, 6, 7], None).since(&before)), 3);
        assert_eq!(count(&before.since(&before)), 0);
    }
}
