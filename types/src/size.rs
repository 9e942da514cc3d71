//! Sizes as people write them.

use crate::SECTOR_BYTES;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("{0:?} is not a size; write it like 10GiB, 1.5TiB or 4096")]
    Unreadable(String),
    #[error(
        "{0:?}: unknown unit; use B, KiB, MiB, GiB, TiB or PiB (K, M, G, T, P mean the same), or kB, MB, GB, TB, PB for powers of ten"
    )]
    Unit(String),
    #[error("a size must be more than 0")]
    Zero,
    #[error("{0:?} is more than can be addressed")]
    TooLarge(String),
    #[error("{0:?} is not a multiple of 512 bytes")]
    Unaligned(String),
}

/// Reads `4096`, `10GiB`, `10G`, `1.5TiB`, `20GB` as bytes. `G` alone means GiB, as it does to LVM and QEMU.
/// The result is a positive multiple of 512.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unreadable = || SizeError::Unreadable(text.to_owned());
    let too_large = || SizeError::TooLarge(text.to_owned());
    let factor = unit_factor(unit.trim())
        .ok_or_else(|| if number.is_empty() { unreadable() } else { SizeError::Unit(text.to_owned()) })?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') || (number.contains('.') && fraction.is_empty())
    {
        return Err(unreadable());
    }
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = whole.checked_mul(factor).ok_or_else(too_large)?;
    if !fraction.is_empty() {
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| unreadable())?);
        let part: u128 = fraction.parse().map_err(|_| unreadable())?;
        bytes += part * factor / scale;
    }
    let bytes = u64::try_from(bytes).map_err(|_| too_large())?;
    match bytes {
        0 => Err(SizeError::Zero),
        b if i64::try_from(b).is_err() => Err(too_large()),
        b if b % u64::from(SECTOR_BYTES) != 0 => Err(SizeError::Unaligned(text.to_owned())),
        b => Ok(b),
    }
}

fn unit_factor(unit: &str) -> Option<u128> {
    const KI: u128 = 1024;
    const K: u128 = 1000;
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => KI,
        "m" | "mib" => KI.pow(2),
        "g" | "gib" => KI.pow(3),
        "t" | "tib" => KI.pow(4),
        "p" | "pib" => KI.pow(5),
        "kb" => K,
        "mb" => K.pow(2),
        "gb" => K.pow(3),
        "tb" => K.pow(4),
        "pb" => K.pow(5),
        _ => return None,
    })
}

/// Writes bytes with the largest binary unit that gives at least 1, with up to two decimals: `10GiB`, `1.5TiB`, `512B`.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >= 1 << (10 * (unit + 1)) {
        unit += 1;
    }
    let hundredths = (u128::from(bytes) * 100) >> (10 * unit);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match rest {
        0 => format!("{whole}{}", UNITS[unit]),
        r if r % 10 == 0 => format!("{whole}.{}{}", r / 10, UNITS[unit]),
        r => format!("{whole}.{r:02}{}", UNITS[unit]),
    }
}

/// For serde: a size in bytes as a number, or as people write it.
pub mod size_text {
    use super::parse_size;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Bytes(u64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(size: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        size.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        match Size::deserialize(from)? {
            Size::Bytes(bytes) => Ok(Some(bytes)),
            Size::Text(text) => parse_size(&text).map(Some).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("10G"), Ok(10 << 30));
        assert_eq!(parse_size("1.5TiB"), Ok(3 << 39));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("1MB"), Err(SizeError::Unaligned("1MB".into())));
        assert_eq!(parse_size("512kB"), Ok(512_000));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        assert_eq!(parse_size("0"), Err(SizeError::Zero));
        assert!(matches!(parse_size("-1"), Err(SizeError::Unreadable(_))));
        assert!(matches!(parse_size("ten"), Err(SizeError::Unreadable(_))));
        assert!(matches!(parse_size("1.2.3G"), Err(SizeError::Unreadable(_))));
        assert!(matches!(parse_size("10Q"), Err(SizeError::Unit(_))));
        assert!(matches!(parse_size("99999999999999P"), Err(SizeError::TooLarge(_))));
        assert!(matches!(parse_size("513"), Err(SizeError::Unaligned(_))));
    }

    #[test]
    fn bytes_are_written_short() {
        assert_eq!(format_bytes(512), "512B");
        assert_eq!(format_bytes(3 << 39), "1.5TiB");
        assert_eq!(format_bytes(10 << 30), "10GiB");
    }
}
