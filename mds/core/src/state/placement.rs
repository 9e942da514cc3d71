//! Placement: which OSDs hold a new PG. Computed once, then stored, so a change of this code moves nothing.
//! Balanced by capacity over all PGs of the cluster; primaries by number. Copies go to different hosts where there are as
//! many hosts as copies, else to different OSDs.

use ashlar_types::view::{OsdInfo, PgConfig};
use ashlar_types::{OsdId, PgId, PoolId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What two copies of a PG never share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureDomain {
    Osd,
    Host,
}

impl fmt::Display for FailureDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FailureDomain::Osd => "osd",
            FailureDomain::Host => "host",
        })
    }
}

#[derive(Clone, Copy, Default)]
struct Load {
    copies: u64,
    primaries: u64,
}

/// How many PGs a pool gets: about 32 copies for each OSD, a power of two, at least 8.
pub(super) fn pg_count(osds: usize, replicas: u8) -> u32 {
    const COPIES_PER_OSD: usize = 32;
    const PGS_MIN: usize = 8;
    const PGS_MAX: usize = 4096;
    let wanted = osds.saturating_mul(COPIES_PER_OSD) / usize::from(replicas.max(1));
    let count = wanted.clamp(PGS_MIN, PGS_MAX).next_power_of_two();
    u32::try_from(count).expect("PGS_MAX fits u32")
}

/// The members of each PG of a new pool, the wanted primary first. `osds` has at least `replicas` entries.
pub(super) fn place<'a>(
    pool: PoolId,
    pg_count: u32,
    replicas: u8,
    osds: &BTreeMap<OsdId, OsdInfo>,
    existing: impl Iterator<Item = &'a PgConfig>,
) -> (FailureDomain, Vec<Vec<OsdId>>) {
    assert!(osds.len() >= usize::from(replicas), "the caller counted the OSDs");
    let hosts: BTreeSet<&str> = osds.values().map(|o| o.host.as_str()).collect();
    let domain = if hosts.len() >= usize::from(replicas) { FailureDomain::Host } else { FailureDomain::Osd };
    let mut loads: BTreeMap<OsdId, Load> = osds.keys().map(|id| (*id, Load::default())).collect();
    for config in existing {
        for (position, osd) in config.members.iter().enumerate() {
            if let Some(load) = loads.get_mut(osd) {
                load.copies += 1;
                load.primaries += u64::from(position == 0);
            }
        }
    }
    let map = (0..pg_count).map(|index| place_one(PgId { pool, index }, replicas, domain, osds, &mut loads)).collect();
    (domain, map)
}

fn place_one(
    pg: PgId,
    replicas: u8,
    domain: FailureDomain,
    osds: &BTreeMap<OsdId, OsdInfo>,
    loads: &mut BTreeMap<OsdId, Load>,
) -> Vec<OsdId> {
    let mut members: Vec<&OsdInfo> = Vec::new();
    for _ in 0..replicas {
        let next = osds
            .values()
            .filter(|o| members.iter().all(|m| m.id != o.id && (domain == FailureDomain::Osd || m.host != o.host)))
            .min_by(|a, b| {
                // (load + 1) / capacity, compared without dividing; an OSD of unknown capacity counts as the smallest.
                let cost = |this: &OsdInfo, other: &OsdInfo| {
                    (u128::from(loads[&this.id].copies) + 1) * u128::from(other.capacity.max(1))
                };
                cost(a, b).cmp(&cost(b, a)).then_with(|| spread(pg, a.id).cmp(&spread(pg, b.id)))
            })
            .expect("there are at least as many failure domains as copies");
        members.push(next);
    }
    let primary = members
        .iter()
        .enumerate()
        .min_by_key(|(_, m)| (loads[&m.id].primaries, spread(pg, m.id)))
        .map(|(position, _)| position)
        .expect("a PG has members");
    members.swap(0, primary);
    for (position, member) in members.iter().enumerate() {
        let load = loads.get_mut(&member.id).expect("every OSD has a load");
        load.copies += 1;
        load.primaries += u64::from(position == 0);
    }
    members.iter().map(|m| m.id).collect()
}

/// Breaks ties differently for each PG, so that the partners of one OSD are many and its recovery is shared by all.
fn spread(pg: PgId, osd: OsdId) -> u64 {
    mix(u64::from(pg.pool.0) << 48 ^ u64::from(pg.index) << 16 ^ u64::from(osd.0))
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_types::BootId;

    fn osds(hosts: &[&str]) -> BTreeMap<OsdId, OsdInfo> {
        let info = |(i, host): (usize, &&str)| {
            let id = OsdId(i as u32 + 1);
            let info = OsdInfo {
                id,
                boot: BootId(1),
                up: true,
                address: String::new(),
                host: (*host).to_owned(),
                capacity: 10 << 30,
            };
            (id, info)
        };
        hosts.iter().enumerate().map(info).collect()
    }

    fn spread_of(map: &[Vec<OsdId>], osds: usize, primaries_only: bool) -> (usize, usize) {
        let mut counts = vec![0; osds];
        for members in map {
            let n = if primaries_only { 1 } else { members.len() };
            members[..n].iter().for_each(|m| counts[m.0 as usize - 1] += 1);
        }
        (*counts.iter().min().expect("not empty"), *counts.iter().max().expect("not empty"))
    }

    #[test]
    fn copies_and_primaries_are_balanced() {
        for (count, replicas) in [(3, 3), (5, 3), (7, 2), (12, 3), (4, 1)] {
            let osds = osds(&vec!["one"; count]);
            let pgs = pg_count(count, replicas);
            let (domain, map) = place(PoolId(1), pgs, replicas, &osds, std::iter::empty());
            assert_eq!(domain, if replicas > 1 { FailureDomain::Osd } else { FailureDomain::Host });
            let (least, most) = spread_of(&map, count, false);
            assert!(most - least <= 1, "{count} OSDs, {replicas} copies: {least}..{most}");
            let (least, most) = spread_of(&map, count, true);
            assert!(most - least <= 3, "primaries of {count} OSDs, {replicas} copies: {least}..{most}");
        }
    }

    #[test]
    fn copies_go_to_different_hosts_where_there_are_enough() {
        let osds = osds(&["a", "a", "b", "b", "c", "c", "d"]);
        let (domain, map) = place(PoolId(1), 64, 3, &osds, std::iter::empty());
        assert_eq!(domain, FailureDomain::Host);
        for members in map {
            let hosts: BTreeSet<_> = members.iter().map(|m| osds[m].host.clone()).collect();
            assert_eq!(hosts.len(), 3);
        }
    }

    #[test]
    fn a_larger_disk_takes_more() {
        let mut osds = osds(&["a", "b", "c", "d"]);
        osds.get_mut(&OsdId(1)).expect("exists").capacity *= 3;
        let (_, map) = place(PoolId(1), 64, 1, &osds, std::iter::empty());
        let on_first = map.iter().filter(|m| m[0] == OsdId(1)).count();
        assert!((28..=36).contains(&on_first), "{on_first} of 64");
    }

    #[test]
    fn the_number_of_pgs_follows_the_number_of_osds() {
        assert_eq!(pg_count(3, 3), 32);
        assert_eq!(pg_count(1, 1), 32);
        assert_eq!(pg_count(1, 5), 8);
        assert_eq!(pg_count(100_000, 1), 4096);
    }
}
