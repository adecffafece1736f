//! Every call in every state of an end.

use super::*;

/// The states, by the word that stands for each.
const OPEN: u32 = 0;
const CLOSING_STATE: u32 = CLOSING;
const CLOSING_WRITES: u32 = CLOSING | DROPS_WRITES;
const LOSING_STATE: u32 = CLOSING | LOSING;
const LOST_STATE: u32 = CLOSING | LOSING | LOST;

/// An end in a state.
fn at(word: u32) -> Ending {
    Ending(AtomicU32::new(word))
}

/// Makes a call in each of the states, and compares the answer and the state after it.
#[track_caller]
fn check<A: PartialEq + std::fmt::Debug>(call: impl Fn(&Ending) -> A, table: &[(u32, A, u32)]) {
    let states = [OPEN, CLOSING_STATE, CLOSING_WRITES, LOSING_STATE, LOST_STATE];
    assert_eq!(table.iter().map(|row| row.0).collect::<Vec<_>>(), states, "each state once");
    for (before, answer, after) in table {
        // The flags beside the stage change no transition, and none changes them.
        for flag in [0, EMPTY_WAITER, DROPS_WRITES] {
            let ending = at(before | flag);
            assert_eq!(call(&ending), *answer, "of {before:#b} with {flag:#b}");
            assert_eq!(ending.word(), after | flag, "after {before:#b} with {flag:#b}");
        }
    }
}

#[test]
fn a_close_with_nothing_queued_loses_the_connection_soon() {
    check(
        |ending| ending.close(false),
        &[
            (OPEN, Close::LoseSoon, LOSING_STATE),
            (CLOSING_STATE, Close::Ignore, CLOSING_STATE),
            (CLOSING_WRITES, Close::Ignore, CLOSING_WRITES),
            (LOSING_STATE, Close::Ignore, LOSING_STATE),
            (LOST_STATE, Close::Ignore, LOST_STATE),
        ],
    );
}

#[test]
fn a_close_with_data_queued_waits_for_the_queue() {
    check(
        |ending| ending.close(true),
        &[
            (OPEN, Close::WaitForQueue, CLOSING_STATE),
            (CLOSING_STATE, Close::Ignore, CLOSING_STATE),
            (CLOSING_WRITES, Close::Ignore, CLOSING_WRITES),
            (LOSING_STATE, Close::Ignore, LOSING_STATE),
            (LOST_STATE, Close::Ignore, LOST_STATE),
        ],
    );
}

#[test]
fn a_write_end_that_closes_drops_what_is_written() {
    check(
        |ending| ending.close_writes(true),
        &[
            (OPEN, Close::WaitForQueue, CLOSING_WRITES),
            (CLOSING_STATE, Close::Ignore, CLOSING_STATE),
            (CLOSING_WRITES, Close::Ignore, CLOSING_WRITES),
            (LOSING_STATE, Close::Ignore, LOSING_STATE),
            (LOST_STATE, Close::Ignore, LOST_STATE),
        ],
    );
    check(
        |ending| ending.close_writes(false),
        &[
            (OPEN, Close::LoseSoon, LOSING_STATE | DROPS_WRITES),
            (CLOSING_STATE, Close::Ignore, CLOSING_STATE),
            (CLOSING_WRITES, Close::Ignore, CLOSING_WRITES),
            (LOSING_STATE, Close::Ignore, LOSING_STATE),
            (LOST_STATE, Close::Ignore, LOST_STATE),
        ],
    );
}

#[test]
fn an_empty_queue_ends_what_is_closing() {
    check(
        Ending::drained,
        &[
            (OPEN, Drained::Ignore, OPEN),
            (CLOSING_STATE, Drained::LoseNow, LOSING_STATE),
            (CLOSING_WRITES, Drained::LoseNow, LOSING_STATE | DROPS_WRITES),
            (LOSING_STATE, Drained::Ignore, LOSING_STATE),
            (LOST_STATE, Drained::Ignore, LOST_STATE),
        ],
    );
}

#[test]
fn an_abort_loses_the_connection_unless_it_is_being_lost() {
    check(
        Ending::abort,
        &[
            (OPEN, Abort::LoseSoon, LOSING_STATE),
            (CLOSING_STATE, Abort::LoseSoon, LOSING_STATE),
            (CLOSING_WRITES, Abort::LoseSoon, LOSING_STATE | DROPS_WRITES),
            (LOSING_STATE, Abort::Ignore, LOSING_STATE),
            (LOST_STATE, Abort::Ignore, LOST_STATE),
        ],
    );
}

#[test]
fn what_is_finished_is_lost() {
    check(
        Ending::finish,
        &[
            (OPEN, (), LOST_STATE),
            (CLOSING_STATE, (), LOST_STATE),
            (CLOSING_WRITES, (), LOST_STATE | DROPS_WRITES),
            (LOSING_STATE, (), LOST_STATE),
            (LOST_STATE, (), LOST_STATE),
        ],
    );
}

#[test]
fn the_write_side_is_shut_once_and_of_an_open_connection_only() {
    check(
        Ending::shut_write,
        &[
            (OPEN, ShutWrite::Shut, OPEN | WRITE_EOF),
            (CLOSING_STATE, ShutWrite::Ignore, CLOSING_STATE),
            (CLOSING_WRITES, ShutWrite::Ignore, CLOSING_WRITES),
            (LOSING_STATE, ShutWrite::Ignore, LOSING_STATE),
            (LOST_STATE, ShutWrite::Ignore, LOST_STATE),
        ],
    );
    let ending = at(WRITE_EOF);
    assert_eq!((ending.shut_write(), ending.word()), (ShutWrite::Ignore, WRITE_EOF));
    assert_eq!(ending.close(true), Close::WaitForQueue, "a shut write side closes as any");
    assert!(ending.is_write_shut());
}

#[test]
fn a_forked_child_changes_no_stage() {
    check(
        Ending::after_fork,
        &[
            (OPEN, (), OPEN),
            (CLOSING_STATE, (), CLOSING_STATE),
            (CLOSING_WRITES, (), CLOSING_WRITES),
            (LOSING_STATE, (), LOSING_STATE),
            (LOST_STATE, (), LOST_STATE),
        ]
        .map(|(before, answer, after)| (before, answer, after | DROPS_WRITES)),
    );
}

#[test]
fn each_stage_is_closing_and_losing_from_its_own_on() {
    for (state, closing, losing) in [
        (OPEN, false, false),
        (CLOSING_STATE, true, false),
        (CLOSING_WRITES, true, false),
        (LOSING_STATE, true, true),
        (LOST_STATE, true, true),
    ] {
        let ending = at(state);
        assert_eq!((ending.is_closing(), ending.is_losing()), (closing, losing), "{state:#b}");
        assert_eq!(ending.awaits_empty(), closing, "an end waits for the queue");
    }
}

#[test]
fn who_waits_for_the_queue_forbids_writes_meanwhile() {
    let ending = Ending::new();
    ending.set_empty_waiter(true);
    assert!(ending.awaits_empty() && !ending.is_closing());
    assert_eq!(ending.write_gate(), WriteGate::Refused(Refusal::DuringSendfile));
    ending.set_empty_waiter(false);
    assert_eq!((ending.write_gate(), ending.awaits_empty()), (WriteGate::Open, false));
}

#[test]
fn a_write_is_refused_for_the_first_reason_that_asyncio_names() {
    for (word, gate) in [
        (OPEN, WriteGate::Open),
        (CLOSING_STATE, WriteGate::Open),
        (CLOSING_WRITES, WriteGate::Refused(Refusal::Dropped)),
        (LOSING_STATE, WriteGate::Refused(Refusal::Dropped)),
        (LOST_STATE, WriteGate::Refused(Refusal::Dropped)),
        (DROPS_WRITES, WriteGate::Refused(Refusal::Dropped)),
        (LOSING_STATE | EMPTY_WAITER, WriteGate::Refused(Refusal::DuringSendfile)),
        (LOSING_STATE | EMPTY_WAITER | WRITE_EOF, WriteGate::Refused(Refusal::AfterEof)),
        (WRITE_EOF, WriteGate::Refused(Refusal::AfterEof)),
    ] {
        assert_eq!(at(word).write_gate(), gate, "{word:#b}");
    }
}

#[test]
fn a_write_is_held_back_while_the_turn_keeps_reading_unless_it_is_refused() {
    let ending = Ending::new();
    ending.set_corked(true);
    assert_eq!((ending.write_gate(), ending.is_corked()), (WriteGate::Corked, true));
    assert_eq!(ending.abort(), Abort::LoseSoon);
    assert_eq!(ending.write_gate(), WriteGate::Refused(Refusal::Dropped));
    let ending = Ending::new();
    ending.set_corked(true);
    ending.set_corked(false);
    assert_eq!((ending.write_gate(), ending.is_corked()), (WriteGate::Open, false));
}
