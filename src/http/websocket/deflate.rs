//! Compressed messages (RFC 7692, 7.2). Nothing is kept from one to the next: the memory is that of a thread.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What a sender takes off the end of a message, and a receiver puts there again.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Bytes by which the buffer grows.
const STEP: usize = 16 * 1024;

/// Bytes that the buffer keeps.
const KEPT: usize = 256 * 1024;

/// Memory to compress and to inflate messages with: one for a thread, not for a connection. It is made when it is
/// needed first.
#[derive(Debug, Default)]
pub struct Deflater {
    inflate: Option<Decompress>,
    deflate: Option<Compress>,
    buffer: Vec<u8>,
}

/// Why a message is not inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InflateError {
    /// It is not compressed as it says.
    Invalid,
    /// It is longer than it may be.
    TooLong,
}

/// Makes room for more of a message of no more than `most` bytes: for one byte more, which tells that there is too
/// much.
fn make_room(buffer: &mut Vec<u8>, most: usize) {
    let left = (most - buffer.len()).saturating_add(1);
    if buffer.capacity() - buffer.len() < STEP.min(left) {
        // Twice as much, as a vector grows, but not beyond what may be.
        buffer.reserve_exact(buffer.capacity().max(STEP).min(left));
    }
}

impl Deflater {
    /// Inflates a message to no more than `most` bytes.
    pub(super) fn inflate(&mut self, message: &[u8], most: usize) -> Result<&[u8], InflateError> {
        let inflate = self.inflate.get_or_insert_with(|| Decompress::new(false));
        inflate.reset(false);
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.shrink_to(KEPT);
        for mut input in [message, &TAIL] {
            loop {
                make_room(buffer, most);
                let (taken, made) = (inflate.total_in(), buffer.len());
                let status = inflate
                    .decompress_vec(input, buffer, FlushDecompress::Sync)
                    .map_err(|_| InflateError::Invalid)?;
                if buffer.len() > most {
                    return Err(InflateError::TooLong);
                }
                let taken = usize::try_from(inflate.total_in() - taken).unwrap_or(input.len());
                let made = buffer.len() - made;
                input = &input[taken..];
                if status == Status::StreamEnd {
                    // A last block may be followed by others, which begin anew (RFC 7692, 7.2.3.4).
                    inflate.reset(false);
                } else if input.is_empty() && buffer.len() < buffer.capacity() {
                    break;
                } else if taken == 0 && made == 0 {
                    return Err(InflateError::Invalid);
                }
                if status == Status::StreamEnd && input.is_empty() {
                    break;
                }
            }
        }
        Ok(&self.buffer)
    }

    /// Memory for messages.
    #[cfg(test)]
    pub(in crate::http) fn heap(&self) -> usize {
        self.buffer.capacity()
    }

    /// Compresses a message.
    pub(in crate::http) fn deflate(&mut self, message: &[u8]) -> &[u8] {
        let deflate = self.deflate.get_or_insert_with(|| Compress::new(Compression::fast(), false));
        deflate.reset();
        let buffer = &mut self.buffer;
        buffer.clear();
        buffer.shrink_to(KEPT);
        let mut input = message;
        loop {
            buffer.reserve(STEP);
            let taken = deflate.total_in();
            // It fails only after an end, which is never asked for.
            let done = deflate.compress_vec(input, buffer, FlushCompress::Sync);
            input = &input[usize::try_from(deflate.total_in() - taken).unwrap_or(0)..];
            let is_stuck = !matches!(done, Ok(Status::Ok));
            if is_stuck || input.is_empty() && buffer.len() < buffer.capacity() {
                break;
            }
        }
        let end = self.buffer.len() - if self.buffer.ends_with(&TAIL) { TAIL.len() } else { 0 };
        // An empty message is one byte (RFC 7692, 7.2.3.6).
        if end == 0 { &[0] } else { &self.buffer[..end] }
    }
}
