//! How a field is written: little-endian, no padding, lists behind their count, choices behind a numbered tag.
//! F1: `get` reads exactly what `put` wrote. F2: nothing is allocated from a count that the remaining bytes cannot hold.
//! F3: one value has one encoding (booleans are 0 or 1, maps rise), so a frame can be compared by its bytes.
//! Called by `body`; knows no message.

use crate::error::FrameError;
use crate::frame::Kind;
use ashlar_types::{IdSet, Numbered};
use bytes::{BufMut, BytesMut};
use std::collections::BTreeMap;

/// The most items of any list, whatever their size.
pub const MAX_LIST_ITEMS: u64 = 1 << 18;

pub(crate) trait Field: Sized {
    /// The fewest bytes that a value takes; a list's count is checked against it.
    const MIN_BYTES: usize;
    fn put(&self, out: &mut BytesMut);
    fn get(from: &mut Reader<'_>) -> Result<Self, FrameError>;
}

/// The part of a body that was not read yet.
pub(crate) struct Reader<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(kind: Kind, body: &'a [u8]) -> Reader<'a> {
        Reader { kind, rest: body }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Short { kind: self.kind })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn finish(&self) -> Result<(), FrameError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(FrameError::Trailing { kind: self.kind, left }),
        }
    }

    pub(crate) fn bad_tag(&self, what: &'static str, value: impl Into<u64>) -> FrameError {
        FrameError::Tag { kind: self.kind, what, value: value.into() }
    }

    pub(crate) fn contradiction(&self, what: &'static str) -> FrameError {
        FrameError::Contradiction { kind: self.kind, what }
    }

    /// A list's count, which the remaining bytes can hold (F2).
    fn count(&mut self, item_bytes_min: usize) -> Result<usize, FrameError> {
        let items = u64::from(u32::get(self)?);
        let fits = (self.rest.len() / item_bytes_min.max(1)) as u64;
        let most = fits.min(MAX_LIST_ITEMS);
        if items > most {
            return Err(FrameError::List { kind: self.kind, items, most });
        }
        Ok(items as usize)
    }
}

fn put_count(items: usize, out: &mut BytesMut) {
    let count = u32::try_from(items).ok().filter(|n| u64::from(*n) <= MAX_LIST_ITEMS);
    out.put_u32_le(count.expect("cores bound their lists far below MAX_LIST_ITEMS"));
}

impl Field for u8 {
    const MIN_BYTES: usize = 1;
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(*self);
    }
    fn get(from: &mut Reader<'_>) -> Result<u8, FrameError> {
        let [byte] = from.take()?;
        Ok(byte)
    }
}

impl Field for u16 {
    const MIN_BYTES: usize = 2;
    fn put(&self, out: &mut BytesMut) {
        out.put_u16_le(*self);
    }
    fn get(from: &mut Reader<'_>) -> Result<u16, FrameError> {
        from.take().map(u16::from_le_bytes)
    }
}

impl Field for u32 {
    const MIN_BYTES: usize = 4;
    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(*self);
    }
    fn get(from: &mut Reader<'_>) -> Result<u32, FrameError> {
        from.take().map(u32::from_le_bytes)
    }
}

impl Field for u64 {
    const MIN_BYTES: usize = 8;
    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(*self);
    }
    fn get(from: &mut Reader<'_>) -> Result<u64, FrameError> {
        from.take().map(u64::from_le_bytes)
    }
}

impl Field for u128 {
    const MIN_BYTES: usize = 16;
    fn put(&self, out: &mut BytesMut) {
        out.put_u128_le(*self);
    }
    fn get(from: &mut Reader<'_>) -> Result<u128, FrameError> {
        from.take().map(u128::from_le_bytes)
    }
}

impl Field for bool {
    const MIN_BYTES: usize = 1;
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }
    fn get(from: &mut Reader<'_>) -> Result<bool, FrameError> {
        match u8::get(from)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(from.bad_tag("boolean", other)),
        }
    }
}

impl<T: Field> Field for Option<T> {
    const MIN_BYTES: usize = 1;
    fn put(&self, out: &mut BytesMut) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<Option<T>, FrameError> {
        bool::get(from)?.then(|| T::get(from)).transpose()
    }
}

impl<T: Field> Field for Vec<T> {
    const MIN_BYTES: usize = 4;
    fn put(&self, out: &mut BytesMut) {
        put_count(self.len(), out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(from: &mut Reader<'_>) -> Result<Vec<T>, FrameError> {
        let count = from.count(T::MIN_BYTES)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(T::get(from)?);
        }
        Ok(items)
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    const MIN_BYTES: usize = A::MIN_BYTES + B::MIN_BYTES;
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Result<(A, B), FrameError> {
        Ok((A::get(from)?, B::get(from)?))
    }
}

impl<K: Field + Ord, V: Field> Field for BTreeMap<K, V> {
    const MIN_BYTES: usize = 4;
    fn put(&self, out: &mut BytesMut) {
        put_count(self.len(), out);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }
    fn get(from: &mut Reader<'_>) -> Result<BTreeMap<K, V>, FrameError> {
        let count = from.count(K::MIN_BYTES + V::MIN_BYTES)?;
        let mut map = BTreeMap::new();
        for _ in 0..count {
            let key = K::get(from)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(from.contradiction("the keys of a map do not rise"));
            }
            map.insert(key, V::get(from)?);
        }
        Ok(map)
    }
}

impl<T: Field + Numbered> Field for IdSet<T> {
    const MIN_BYTES: usize = 4;
    fn put(&self, out: &mut BytesMut) {
        put_count(self.ranges().len(), out);
        self.ranges().for_each(|range| range.put(out));
    }
    fn get(from: &mut Reader<'_>) -> Result<IdSet<T>, FrameError> {
        let ranges: Vec<(T, T)> = Field::get(from)?;
        IdSet::from_ranges(ranges).ok_or_else(|| from.contradiction("the ranges of a set overlap or touch"))
    }
}
