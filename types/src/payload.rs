//! Payload buffers: reference-counted bytes whose start is aligned for direct I/O.

use bytes::BytesMut;

/// An empty buffer with room for `len` bytes that start at a multiple of 4096 in memory, so that the kernel takes them
/// for direct I/O as they are. Freeze it into `Bytes` when filled; clones and slices of it are not copies.
pub fn aligned_payload(len: usize) -> BytesMut {
    const ALIGN: usize = 4096;
    let mut buffer = BytesMut::with_capacity(len + ALIGN - 1);
    let skip = buffer.as_ptr().align_offset(ALIGN);
    buffer.resize(skip, 0);
    let _ = buffer.split_to(skip);
    buffer
}

#[cfg(test)]
mod tests {
    use super::aligned_payload;

    #[test]
    fn starts_at_a_page_and_holds_what_was_asked_for() {
        for len in [1, 512, 4096, 1 << 20] {
            let mut buffer = aligned_payload(len);
            buffer.resize(len, 7);
            assert_eq!(buffer.as_ptr() as usize % 4096, 0);
            assert_eq!(buffer.len(), len);
        }
    }
}
