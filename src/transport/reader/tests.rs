//! Each transition of a reader, and what each kind of read takes.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

type State = ReaderState<Vec<u8>>;

/// A reader with this limit to which these chunks came.
fn reader(limit: usize, chunks: &[&str]) -> State {
    let mut reader = State::default();
    reader.set_limit(limit);
    for chunk in chunks {
        let _ = feed(&mut reader, chunk);
    }
    reader
}

fn feed(reader: &mut State, chunk: &str) -> FeedOutcome<Vec<u8>> {
    reader.feed(chunk.as_bytes(), || Some(chunk.into()))
}

fn look(
    reader: &mut State,
    wanted: Wanted,
    progress: &mut ReadProgress,
) -> LookOutcome<Vec<u8>, String> {
    reader.look(wanted, progress, |bytes| Some(String::from_utf8(bytes.to_vec()).unwrap()))
}

/// What a first look finds.
fn found(reader: &mut State, wanted: Wanted) -> TakeOutcome<Vec<u8>, String> {
    look(reader, wanted, &mut ReadProgress::default()).found
}

fn part(text: &str) -> TakeOutcome<Vec<u8>, String> {
    TakeOutcome::Part(text.to_owned())
}

fn whole(text: &str) -> TakeOutcome<Vec<u8>, String> {
    TakeOutcome::Whole(text.into())
}

fn until(separator: &str) -> ReadProgress {
    let mut progress = ReadProgress::default();
    progress.ends_by(Separators::new(vec![separator.as_bytes().into()]).unwrap());
    progress
}

#[test]
fn read_takes_what_is_there() {
    assert_eq!(found(&mut reader(9, &[]), Wanted::AtMost(5)), TakeOutcome::Wait);
    assert_eq!(found(&mut reader(9, &["abc"]), Wanted::AtMost(5)), whole("abc"));
    assert_eq!(found(&mut reader(9, &["abc"]), Wanted::AtMost(2)), part("ab"));
    assert_eq!(found(&mut reader(9, &["ab", "c"]), Wanted::AtMost(3)), part("abc"));
    assert_eq!(found(&mut reader(9, &["abc"]), Wanted::AtMost(0)), part(""), "at once");
    assert_eq!(found(&mut reader(9, &[]), Wanted::AtMost(0)), part(""), "at once");
}

#[test]
fn read_returns_nothing_at_the_end() {
    let mut reader = reader(9, &["abc"]);
    reader.set_eof(true);
    assert_eq!(found(&mut reader, Wanted::AtMost(5)), whole("abc"));
    assert!(reader.at_eof());
    assert_eq!(found(&mut reader, Wanted::AtMost(5)), part(""));
    assert_eq!(found(&mut reader, Wanted::All), part(""));
}

#[test]
fn all_is_collected_round_by_round_to_the_end() {
    let mut reader = reader(9, &["abc"]);
    let mut progress = ReadProgress::default();
    assert_eq!(look(&mut reader, Wanted::All, &mut progress).found, whole("abc"));
    assert_eq!(progress.collect(b"abc"), None);
    assert_eq!(look(&mut reader, Wanted::All, &mut progress).found, TakeOutcome::Wait);
    let _ = feed(&mut reader, "de");
    assert_eq!(look(&mut reader, Wanted::All, &mut progress).found, whole("de"));
    assert_eq!(progress.collect(b"de"), None);
    reader.set_eof(true);
    assert_eq!(look(&mut reader, Wanted::All, &mut progress).found, part(""));
    assert_eq!(progress.collect(b""), Some(b"abcde".to_vec()));
    assert_eq!(progress.collect(b""), Some(vec![]), "it is given out once");
}

#[test]
fn readexactly_waits_for_all_of_it() {
    let mut reader = reader(9, &["abc"]);
    assert_eq!(found(&mut reader, Wanted::Exactly(4)), TakeOutcome::Wait);
    assert_eq!(found(&mut reader, Wanted::Exactly(0)), part(""));
    let _ = feed(&mut reader, "de");
    assert_eq!(found(&mut reader, Wanted::Exactly(4)), part("abcd"));
    assert_eq!(reader.bytes(), b"e");
    reader.set_eof(true);
    assert_eq!(found(&mut reader, Wanted::Exactly(2)), TakeOutcome::Ended("e".to_owned()));
    assert_eq!(reader.bytes(), b"");
}

#[test]
fn readline_takes_up_to_the_end_of_the_line() {
    let mut reader = reader(9, &["ab", "c"]);
    let mut progress = ReadProgress::default();
    assert_eq!(look(&mut reader, Wanted::Line, &mut progress).found, TakeOutcome::Wait);
    let _ = feed(&mut reader, "d\nefg");
    assert_eq!(look(&mut reader, Wanted::Line, &mut progress).found, part("abcd\n"));
    reader.set_eof(true);
    assert_eq!(found(&mut reader, Wanted::Next), TakeOutcome::Ended("efg".to_owned()));
    assert_eq!(found(&mut reader, Wanted::Next), TakeOutcome::Ended(String::new()));
}

#[test]
fn a_line_beyond_the_limit_is_thrown_away() {
    let mut known = reader(2, &["abc\nd\n"]);
    let overrun = |consumed, found| TakeOutcome::Overrun(Overrun { consumed, found });
    assert_eq!(found(&mut known, Wanted::Line), overrun(3, true));
    assert_eq!(known.bytes(), b"d\n", "with its end");
    let mut open = reader(2, &["abc"]);
    assert_eq!(found(&mut open, Wanted::Next), overrun(3, false));
    assert_eq!(open.bytes(), b"", "so far as it has come");
}

#[test]
fn what_readuntil_finds_beyond_the_limit_stays_there() {
    let mut reader = reader(2, &["abc--d"]);
    let looked = look(&mut reader, Wanted::Until, &mut until("--"));
    assert_eq!(looked.found, TakeOutcome::Overrun(Overrun { consumed: 3, found: true }));
    assert!(!looked.resumes);
    let looked = look(&mut reader, Wanted::Until, &mut until("zz"));
    assert_eq!(looked.found, TakeOutcome::Overrun(Overrun { consumed: 5, found: false }));
    assert_eq!(reader.bytes(), b"abc--d");
}

#[test]
fn readuntil_takes_the_separator_too_and_tells_what_came_before_the_end() {
    let mut reader = reader(9, &["ab-"]);
    let mut progress = until("--");
    assert_eq!(look(&mut reader, Wanted::Until, &mut progress).found, TakeOutcome::Wait);
    let _ = feed(&mut reader, "-c");
    assert_eq!(look(&mut reader, Wanted::Until, &mut progress).found, part("ab--"));
    reader.set_eof(true);
    let looked = look(&mut reader, Wanted::Until, &mut until("--"));
    assert_eq!(looked.found, TakeOutcome::Ended("c".to_owned()));
}

#[test]
fn who_waits_for_something_to_come_takes_none_of_it() {
    let mut reader = reader(9, &["ab"]);
    let mut progress = ReadProgress::default();
    assert_eq!(look(&mut reader, Wanted::Arrival, &mut progress).found, TakeOutcome::Wait);
    progress.wake();
    assert_eq!(look(&mut reader, Wanted::Arrival, &mut progress).found, part(""));
    assert_eq!(reader.bytes(), b"ab");
}

#[test]
fn what_cannot_be_made_is_not_taken() {
    let mut reader = reader(9, &["abc"]);
    let mut progress = ReadProgress::default();
    let looked = reader.look(Wanted::AtMost(2), &mut progress, |_| None::<String>);
    assert_eq!(looked.found, TakeOutcome::Failed);
    assert_eq!(reader.bytes(), b"abc");
}

#[test]
fn how_a_read_begins() {
    assert_eq!(Wanted::Exactly(-1).first_step(), FirstStep::NegativeSize);
    assert_eq!(Wanted::Until.first_step(), FirstStep::Separators);
    assert_eq!(Wanted::Arrival.first_step(), FirstStep::Look);
    for wanted in [Wanted::AtMost(0), Wanted::All, Wanted::Exactly(0), Wanted::Line, Wanted::Next] {
        assert_eq!(wanted.first_step(), FirstStep::Check, "{wanted:?}");
    }
}

#[test]
fn what_becomes_of_what_was_taken() {
    for (wanted, enough, ended) in [
        (Wanted::AtMost(3), Answer::Bytes, Answer::Bytes),
        (Wanted::All, Answer::Collect, Answer::Collect),
        (Wanted::Exactly(3), Answer::Bytes, Answer::Incomplete(Some(3))),
        (Wanted::Line, Answer::Bytes, Answer::Bytes),
        (Wanted::Next, Answer::Line, Answer::Line),
        (Wanted::Until, Answer::Bytes, Answer::Incomplete(None)),
        (Wanted::Arrival, Answer::Nothing, Answer::Nothing),
    ] {
        assert_eq!((wanted.answer(false), wanted.answer(true)), (enough, ended), "{wanted:?}");
    }
}

#[test]
fn bytes_after_the_end_are_refused_and_none_are_nothing() {
    let mut reader = reader(9, &[]);
    assert_eq!(feed(&mut reader, ""), FeedOutcome::Nothing);
    assert_eq!(feed(&mut reader, "a"), FeedOutcome::Fed { spent: None, pauses: false });
    reader.set_eof(true);
    assert_eq!(feed(&mut reader, "b"), FeedOutcome::AfterEof);
    assert_eq!(feed(&mut reader, ""), FeedOutcome::AfterEof);
    assert_eq!(reader.bytes(), b"a");
}

#[test]
fn a_chunk_that_is_joined_is_given_back_to_be_dropped() {
    let mut reader = reader(9, &["ab"]);
    let fed = feed(&mut reader, "c");
    assert_eq!(fed, FeedOutcome::Fed { spent: Some(b"ab".to_vec()), pauses: false });
    let mut reader = self::reader(9, &["ab"]);
    assert_eq!(look(&mut reader, Wanted::AtMost(1), &mut ReadProgress::default()).spent, None);
    let looked = look(&mut reader, Wanted::AtMost(1), &mut ReadProgress::default());
    assert_eq!((looked.found, looked.spent), (part("b"), Some(b"ab".to_vec())));
    let mut reader = self::reader(9, &["ab"]);
    assert_eq!(reader.clear(), Some(b"ab".to_vec()));
}

#[test]
fn more_than_twice_the_limit_pauses_once() {
    let mut reader = reader(2, &["abcd"]);
    assert!(!reader.is_paused());
    let pauses = |fed| matches!(fed, FeedOutcome::Fed { pauses: true, .. });
    assert!(pauses(feed(&mut reader, "e")));
    assert!(pauses(feed(&mut reader, "f")), "until the transport has been");
    reader.set_paused(true);
    assert!(!pauses(feed(&mut reader, "g")));
    assert!(!pauses(feed(&mut self::reader(usize::MAX, &[]), "a")), "no limit is too large");
}

#[test]
fn a_read_that_leaves_no_more_than_the_limit_resumes_once() {
    let mut reader = reader(2, &["abcdef"]);
    reader.set_paused(true);
    let mut resumes = |wanted| look(&mut reader, wanted, &mut ReadProgress::default()).resumes;
    assert!(!resumes(Wanted::AtMost(3)), "three are left");
    assert!(resumes(Wanted::Exactly(1)), "two are left");
    assert!(!resumes(Wanted::AtMost(1)), "it flows");
    assert!(!reader.is_paused());
}

#[test]
fn what_takes_nothing_resumes_nothing() {
    let mut reader = reader(9, &["ab"]);
    reader.set_paused(true);
    let mut woken = ReadProgress::default();
    woken.wake();
    let mut resumes = |wanted| look(&mut reader, wanted, &mut woken).resumes;
    assert!(!resumes(Wanted::AtMost(0)));
    assert!(!resumes(Wanted::Exactly(0)));
    assert!(!resumes(Wanted::Arrival));
    assert!(!resumes(Wanted::Exactly(3)), "it is not there");
    reader.set_eof(true);
    let looked = look(&mut reader, Wanted::Exactly(3), &mut ReadProgress::default());
    assert_eq!(looked.found, TakeOutcome::Ended("ab".to_owned()));
    assert!(!looked.resumes, "nothing will come");
}

#[test]
fn a_line_that_is_thrown_away_resumes() {
    let mut reader = reader(2, &["abcde"]);
    reader.set_paused(true);
    assert!(look(&mut reader, Wanted::Line, &mut ReadProgress::default()).resumes);
}

#[test]
fn who_waits_first_resumes_what_was_paused() {
    let mut reader = reader(2, &["abcde"]);
    assert_eq!(reader.before_wait(false), BeforeWait::Ready);
    reader.set_paused(true);
    assert_eq!(reader.before_wait(true), BeforeWait::Ready, "another one has, or will");
    assert!(reader.is_paused());
    assert_eq!(reader.before_wait(false), BeforeWait::Resume);
    assert!(!reader.is_paused());
    reader.set_paused(true);
    reader.set_eof(true);
    assert_eq!(reader.before_wait(false), BeforeWait::Ended);
    assert!(reader.is_paused());
}

#[test]
fn a_read_waits_if_nothing_came_since_its_look() {
    let mut reader = reader(9, &["ab"]);
    let mut progress = ReadProgress::default();
    let wanted = Wanted::Exactly(4);
    assert_eq!(look(&mut reader, wanted, &mut progress).found, TakeOutcome::Wait);
    assert_eq!(reader.begin_wait(&progress, false), WaitOutcome::Begins);
    assert_eq!(reader.begin_wait(&progress, true), WaitOutcome::Awaited);
    let _ = feed(&mut reader, "c");
    assert_eq!(reader.begin_wait(&progress, true), WaitOutcome::Awaited);
    assert_eq!(reader.begin_wait(&progress, false), WaitOutcome::LookAgain);
    assert_eq!(look(&mut reader, wanted, &mut progress).found, TakeOutcome::Wait);
    assert_eq!(reader.begin_wait(&progress, false), WaitOutcome::Begins);
    reader.set_eof(true);
    assert_eq!(reader.begin_wait(&progress, false), WaitOutcome::LookAgain);
}
