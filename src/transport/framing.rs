//! Finds the end of a message by a separator, like `asyncio.StreamReader.readuntil`.

use crate::sys::search::find;

/// What may end a message: at least one, none of them empty.
#[derive(Debug)]
pub struct Separators {
    /// The shortest first.
    all: Box<[Box<[u8]>]>,
}

/// Why there is no [`Separators`] of what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeparator {
    /// There is none.
    Missing,
    /// One of them is empty.
    Empty,
}

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// It ends at `end`; its separator begins at `start`.
    Ends {
        /// Bytes before the separator.
        start: usize,
        /// Bytes up to the end of the separator.
        end: usize,
    },
    /// The separator comes after so many bytes, which is beyond the limit.
    TooLong(usize),
    /// There is none in so many bytes, which is beyond the limit.
    Endless(usize),
    /// There is none yet.
    Open,
}

impl Separators {
    /// The separators, in any order.
    ///
    /// # Errors
    /// There is none, or an empty one.
    pub fn new(mut all: Vec<Box<[u8]>>) -> Result<Self, NoSeparator> {
        all.sort_by_key(|separator| separator.len());
        match all.first().map(|shortest| shortest.len()) {
            None => Err(NoSeparator::Missing),
            Some(0) => Err(NoSeparator::Empty),
            Some(_) => Ok(Self { all: all.into() }),
        }
    }

    /// Looks for the end of the first message in `bytes`. `searched` bytes have none in them; that is
    /// brought up to date.
    pub fn look(&self, bytes: &[u8], searched: &mut usize, limit: usize) -> Frame {
        let parts = self.all.iter().map(|separator| &**separator);
        look(parts, bytes, searched, limit)
    }
}

/// As [`Separators::look`], for lines.
pub fn look_for_line(bytes: &[u8], searched: &mut usize, limit: usize) -> Frame {
    look(std::iter::once(&b"\n"[..]), bytes, searched, limit)
}

fn look<'a>(
    separators: impl Iterator<Item = &'a [u8]>,
    bytes: &[u8],
    searched: &mut usize,
    limit: usize,
) -> Frame {
    // Somebody else may have taken what was searched.
    let offset = if *searched > bytes.len() { 0 } else { *searched };
    let (mut shortest, mut longest) = (usize::MAX, 0);
    let mut first: Option<(usize, usize)> = None;
    for separator in separators {
        (shortest, longest) = (shortest.min(separator.len()), longest.max(separator.len()));
        if let Some(found) = find(&bytes[offset..], separator) {
            let (start, end) = (offset + found, offset + found + separator.len());
            if first.is_none_or(|(_, earlier)| end < earlier) {
                first = Some((start, end));
            }
        }
    }
    match first {
        Some((start, _)) if start > limit => Frame::TooLong(start),
        Some((start, end)) => Frame::Ends { start, end },
        None if bytes.len() - offset < shortest => Frame::Open,
        None => {
            // The last bytes may be the beginning of a separator.
            *searched = (bytes.len() + 1).saturating_sub(longest);
            if *searched > limit { Frame::Endless(*searched) } else { Frame::Open }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[allow(clippy::unwrap_used, reason = "a test")]
    fn separators(all: &[&[u8]]) -> Separators {
        Separators::new(all.iter().map(|one| (*one).into()).collect()).unwrap()
    }

    #[test]
    fn the_separator_that_ends_first_counts() {
        let mut searched = 0;
        let found = separators(&[b"abc", b"c", b"bc"]).look(b"xxabc", &mut searched, 100);
        assert_eq!(found, Frame::Ends { start: 4, end: 5 });
        let found = separators(&[b"xabc", b"ab"]).look(b"xxabc", &mut searched, 100);
        assert_eq!(found, Frame::Ends { start: 2, end: 4 });
    }

    #[test]
    fn a_separator_is_found_however_it_is_cut() {
        let all = separators(&[b"--end--"]);
        let data = b"some --end text --end--";
        let mut searched = 0;
        for length in 0..data.len() {
            assert_eq!(all.look(&data[..length], &mut searched, 100), Frame::Open);
        }
        let found = all.look(data, &mut searched, 100);
        assert_eq!(found, Frame::Ends { start: 16, end: 23 });
    }

    #[test]
    fn the_limit_is_compared_with_what_comes_before_the_separator() {
        for (text, frame) in [
            (&b"abcd\n"[..], Frame::Ends { start: 4, end: 5 }),
            (b"abcde\n", Frame::TooLong(5)),
            (b"abcd", Frame::Open),
            (b"abcde", Frame::Endless(5)),
        ] {
            assert_eq!(look_for_line(text, &mut 0, 4), frame, "{text:?}");
        }
    }

    #[test]
    fn what_somebody_else_took_is_not_counted_as_searched() {
        let mut searched = 10;
        let found = look_for_line(b"a\n", &mut searched, 100);
        assert_eq!(found, Frame::Ends { start: 1, end: 2 });
    }

    #[test]
    fn what_separates_nothing_is_refused() {
        assert_eq!(Separators::new(vec![]).unwrap_err(), NoSeparator::Missing);
        assert_eq!(
            Separators::new(vec![b"a"[..].into(), b""[..].into()]).unwrap_err(),
            NoSeparator::Empty
        );
    }
}
