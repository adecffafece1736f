//! The chunks of a request's body (RFC 9112, 7.1).

use super::head::Fields;
use super::head_parser::{Parsed, parse_trailers};
use super::refusal::Refusal;
use super::settings::Settings;
use crate::sys::search::find;

/// Bytes of the line before a chunk.
const MAX_LINE: usize = 4 * 1024;

/// Bytes of chunk extensions in one body: nobody uses them, and each costs work.
const MAX_EXTENSIONS: usize = 16 * 1024;

/// How far a chunked body has come.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// In so many bytes of a line or section that is not complete there is no end.
    searched: usize,
    extensions: usize,
    /// Bytes of all chunks that have begun.
    total: u64,
}

#[derive(Debug, Default)]
enum At {
    /// The line before a chunk.
    #[default]
    Size,
    /// So many bytes of a chunk are still to come.
    Data(u64),
    /// The CRLF behind a chunk.
    DataEnd,
    /// Behind the last chunk.
    Trailers,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// So many bytes of data.
    Data(usize),
    /// So many bytes that are no data.
    Skip(usize),
    /// The end is behind so many bytes.
    End(usize, Option<Fields>),
    /// More is needed.
    Incomplete,
    /// This is not how a body is chunked.
    Refused(Refusal),
}

impl Chunks {
    /// Says what the first of these bytes are. They come first again in the next call unless they were part of the
    /// answer.
    pub(super) fn step(&mut self, bytes: &[u8], settings: &Settings) -> Step {
        match self.at {
            At::Size => self.size(bytes, settings),
            At::Data(0) => {
                self.at = At::DataEnd;
                Step::Skip(0)
            }
            At::Data(_) if bytes.is_empty() => Step::Incomplete,
            At::Data(left) => {
                let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.at = At::Data(left - count as u64);
                Step::Data(count)
            }
            At::DataEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.at = At::Size;
                    Step::Skip(2)
                }
                [] | [b'\r'] => Step::Incomplete,
                _ => Step::Refused(Refusal::Malformed("the end of a chunk")),
            },
            At::Trailers => match parse_trailers(bytes, settings, &mut self.searched) {
                Parsed::Complete(fields, length) => Step::End(length, fields),
                Parsed::Incomplete => Step::Incomplete,
                Parsed::Refused(refusal) => Step::Refused(refusal),
            },
        }
    }

    fn size(&mut self, bytes: &[u8], settings: &Settings) -> Step {
        let window = &bytes[..bytes.len().min(MAX_LINE)];
        let Some(at) = find(&window[self.searched..], b"\n") else {
            self.searched = window.len();
            return if window.len() == MAX_LINE {
                Step::Refused(Refusal::Malformed("the line before a chunk is too long"))
            } else {
                Step::Incomplete
            };
        };
        let length = self.searched + at + 1;
        self.searched = 0;
        let Some((size, extensions)) = size(&window[..length]) else {
            return Step::Refused(Refusal::Malformed("the line before a chunk"));
        };
        self.extensions += extensions;
        if self.extensions > MAX_EXTENSIONS {
            return Step::Refused(Refusal::Malformed("too many chunk extensions"));
        }
        let Some(total) = self.total.checked_add(size) else {
            return Step::Refused(Refusal::BodyTooLarge);
        };
        if settings.max_body.is_some_and(|most| total > most) {
            return Step::Refused(Refusal::BodyTooLarge);
        }
        self.total = total;
        self.at = if size == 0 { At::Trailers } else { At::Data(size) };
        Step::Skip(length)
    }
}

/// The size in a line, and how many bytes of extensions it has: `None` if it is none.
fn size(line: &[u8]) -> Option<(u64, usize)> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extensions) = line.split_at(digits);
    if size.is_empty() || size.len() > 16 {
        return None;
    }
    // RFC 9112 would have white space before the `;` taken; nobody sends it, and few take it.
    let begins_well = extensions.first().is_none_or(|byte| *byte == b';');
    let is_text = extensions.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f);
    if !begins_well || !is_text {
        return None;
    }
    let digit = |byte: u8| u64::from((byte as char).to_digit(16).unwrap_or(0));
    let size = size.iter().fold(0, |size, byte| size << 4 | digit(*byte));
    Some((size, extensions.len()))
}
