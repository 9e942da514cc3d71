//! `ashlar snapshot diff` and `ashlar volume diff`: what has changed between two states of a volume, by its layers; no data is read
//! (docs/decisions/030-differences.md).

mod compare;
mod sheet;

use crate::args::Compared;
use crate::control::Control;
use crate::error::CliError;
use crate::output::Output;
use ashlar_client::{Cluster, DiskState, Observer};
use ashlar_types::{BlockError, DiskName, LayerExtent, LayerId};
use compare::{Comparison, Sides};
use sheet::Sheet;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How much is asked about at a time.
const STRETCH_BYTES: u64 = 1 << 40;

pub async fn run(control: &Control, compared: Compared, as_json: bool) -> Result<Output, CliError> {
    let Compared { from: from_name, to: to_name } = &compared;
    let cluster = Cluster::connect(Arc::new(control.client().clone())).await?;
    let to = open(&cluster, to_name).await?;
    let from = match from_name {
        Some(name) => Some(open(&cluster, name).await?),
        None => None,
    };
    let sides = sides(&compared, from.as_ref(), &to)?;
    let from_size = from.as_ref().map_or_else(|| base_size(to.state()), |from| from.state().size);
    let from_text = from_name.as_ref().map_or_else(|| "its origin".to_owned(), ToString::to_string);
    let mut sheet = Sheet::begin(as_json, (&from_text, from_size), (&to_name.to_string(), to.state().size));
    let ended = compare_all(&compared, from.as_ref(), &to, &sides, &mut sheet).await?;
    if !ended {
        return Ok(Output::silent()); // nobody reads any more
    }
    look_again(&cluster, from_name.as_ref().zip(from.as_ref()), (to_name, &to)).await?;
    sheet.end().map_err(unwritten)?;
    Ok(Output::silent())
}

async fn open(cluster: &Cluster, name: &DiskName) -> Result<Observer, CliError> {
    let observer = Observer::open(cluster, name).await.map_err(|error| match error {
        ashlar_client::OpenError::Control { source, .. } => CliError::Control(source),
        error => CliError::Open { source: Box::new(error) },
    })?;
    match observer.state().is_settled {
        true => Ok(observer),
        false => {
            let what = format!("snapshot {name} is still being created; compare it when it is available");
            Err(CliError::Conflict { what })
        }
    }
}

fn base_size(state: &DiskState) -> u64 {
    state.base.map_or(0, |base| base.size)
}

/// Whether the two can be compared, and how.
fn sides(compared: &Compared, from: Option<&Observer>, to: &Observer) -> Result<Sides, CliError> {
    let (to, to_name) = (to.state(), &compared.to);
    let Some((from, from_name)) = from.zip(compared.from.as_ref()) else {
        return match to.base {
            Some(_) => Ok(Sides::new(&[], to)),
            None => Err(CliError::Conflict { what: format!("volume {} is no clone", to_name.volume) }),
        };
    };
    if from.state().id.volume != to.id.volume {
        let what = format!("{from_name} and {to_name} are of two volumes; only what is of one can be compared");
        return Err(CliError::Conflict { what });
    }
    Ok(Sides::new(&from.state().layers, to))
}

/// False: nobody reads it any more.
async fn compare_all(
    compared: &Compared,
    from: Option<&Observer>,
    to: &Observer,
    sides: &Sides,
    sheet: &mut Sheet,
) -> Result<bool, CliError> {
    let from = from.zip(compared.from.as_ref()).filter(|_| sides.are_branches());
    let mut comparison = Comparison::new(sides);
    let to_end = to.state().size;
    let from_end = from.map_or(0, |(from, _)| from.state().size.min(to_end));
    let (mut to_known, mut from_known) = (0, 0);
    while comparison.at() < to_end {
        if to_known == comparison.at() {
            let extents = ask(to, &compared.to, to_known, to_end).await?;
            to_known += extents.iter().map(|extent| extent.len).sum::<u64>();
            comparison.add_to(extents);
        }
        if let Some((from, name)) = from.filter(|_| from_known == comparison.at() && from_known < from_end) {
            let extents = ask(from, name, from_known, from_end).await?;
            from_known += extents.iter().map(|extent| extent.len).sum::<u64>();
            comparison.add_from(extents);
        }
        if from_known >= from_end {
            comparison.end_of_from();
        }
        while let Some(changed) = comparison.next_changed() {
            if !sheet.add(changed).map_err(unwritten)? {
                return Ok(false);
            }
        }
    }
    match comparison.last() {
        Some(changed) => sheet.add(changed).map_err(unwritten),
        None => Ok(true),
    }
}

async fn ask(of: &Observer, name: &DiskName, from: u64, end: u64) -> Result<Vec<LayerExtent>, CliError> {
    let extents = of.layers(from, (end - from).min(STRETCH_BYTES)).await;
    extents.map_err(|error| match error {
        BlockError::Fenced => gone(name),
        source => CliError::Compare { name: name.to_string(), offset: from, source },
    })
}

/// While both are there, and have in common what they had in common, no merge and no revert can have moved anything past that: what was found is right.
async fn look_again(
    cluster: &Cluster,
    from: Option<(&DiskName, &Observer)>,
    (to_name, to): (&DiskName, &Observer),
) -> Result<(), CliError> {
    let to_now = look(cluster, to_name, to).await?;
    let Some((from_name, from)) = from else { return Ok(()) };
    let from_now = look(cluster, from_name, from).await?;
    let common = |from: &DiskState, to: &DiskState| -> Option<LayerId> {
        let layers: BTreeSet<LayerId> = from.layers.iter().copied().collect();
        to.layers.iter().find(|layer| layers.contains(layer)).copied()
    };
    if common(from.state(), to.state()) == common(&from_now, &to_now) {
        return Ok(());
    }
    let what = format!("volume {} was reverted meanwhile, so this is not what changed; compare again", to_name.volume);
    Err(CliError::Conflict { what })
}

async fn look(cluster: &Cluster, name: &DiskName, observer: &Observer) -> Result<DiskState, CliError> {
    let now = DiskState::look(cluster, name).await?;
    match now.id == observer.state().id {
        true => Ok(now),
        false => Err(gone(name)),
    }
}

fn gone(name: &DiskName) -> CliError {
    let kind = if name.snapshot.is_some() { "snapshot" } else { "volume" };
    CliError::Conflict { what: format!("{kind} {name} was deleted meanwhile") }
}

fn unwritten(source: std::io::Error) -> CliError {
    CliError::System { what: "cannot write to standard output", source }
}
