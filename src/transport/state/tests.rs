//! What the word promises, one by one.

#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;
use crate::id::IoToken;

fn event(readable: bool, writable: bool) -> Ready {
    Ready { token: IoToken::new(0, 0), readable, writable, ended: false }
}

fn started() -> State {
    let state = State::new();
    assert_eq!(state.start(), Schedule::Unneeded);
    state
}

#[test]
fn one_entry_stands_for_any_number_of_events() {
    let state = started();
    assert_eq!(state.ready(event(true, false)), Schedule::Needed);
    assert_eq!(state.ready(event(true, true)), Schedule::Unneeded);
    drop(state.begin_turn().claim.unwrap());
    assert_eq!(state.end_turn(), Schedule::Needed, "it was not read to the end");
}

#[test]
fn reading_that_was_closed_and_reopened_in_a_turn_goes_on_in_another() {
    let state = started();
    let _ = state.ready(event(true, false));
    state.begin_turn().claim.unwrap().release_in_turn(false);
    state.close_read();
    assert!(state.bits().is_read_closed());
    state.reopen_read();
    assert_eq!(state.end_turn(), Schedule::Needed);
    assert!(state.begin_turn().claim.is_some());
}

#[test]
fn an_edge_during_a_read_is_not_lost() {
    let state = started();
    let _ = state.ready(event(true, false));
    let claim = state.begin_turn().claim.unwrap();
    assert!(state.claim_read().is_none());
    assert_eq!(state.ready(event(true, false)), Schedule::Unneeded, "the reader will see it");
    assert_eq!(claim.release(false), Schedule::Needed);
}

#[test]
fn an_edge_during_a_write_is_not_lost() {
    let state = started();
    state.set_queued(true);
    let claim = state.claim_write().unwrap();
    assert!(state.claim_write().is_none());
    assert_eq!(state.ready(event(false, true)), Schedule::Unneeded);
    assert_eq!(claim.release(false, false), Schedule::Needed);
    let claim = state.claim_write().unwrap();
    assert_eq!(claim.release(false, false), Schedule::Unneeded, "scheduled, and blocked");
    assert!(state.claim_write().is_none(), "full until the kernel says otherwise");
}

#[test]
fn a_read_that_had_begun_goes_on_though_the_owner_paused() {
    let state = started();
    let _ = state.ready(event(true, false));
    state.begin_turn().claim.unwrap().release_in_turn(true);
    state.pause();
    assert!(state.claim_read_in_turn().is_none());
    assert!(state.claim_begun_read().is_some());
    state.close_read();
    let _ = state.ready(event(true, false));
    assert!(state.claim_begun_read().is_none());
}

#[test]
fn nothing_is_read_before_the_start_nor_while_paused_nor_after_the_end() {
    let state = State::new();
    assert_eq!(state.ready(event(true, false)), Schedule::Unneeded);
    assert!(state.claim_read().is_none());
    assert_eq!(state.start(), Schedule::Needed);
    state.pause();
    assert!(state.begin_turn().claim.is_none() && state.claim_read().is_none());
    assert_eq!(state.resume(), Schedule::Needed);
    state.close_read();
    assert!(state.begin_turn().claim.is_none() && state.claim_read().is_none());
    assert_eq!(state.end_turn(), Schedule::Unneeded);
}

#[test]
fn what_was_read_ahead_waits_for_the_end_of_a_pause() {
    let state = started();
    let _ = state.ready(event(true, false));
    let claim = state.begin_turn().claim.unwrap();
    state.pause();
    state.set_ahead();
    assert_eq!(claim.release(false), Schedule::Unneeded);
    assert_eq!(state.resume(), Schedule::Needed);
    let turn = state.begin_turn();
    assert!(turn.bits.is_ahead() && turn.claim.is_none());
    state.taken_ahead();
    assert_eq!(state.end_turn(), Schedule::Unneeded);
}

#[test]
fn a_retired_transport_is_claimed_no_more() {
    let state = started();
    let _ = state.ready(event(true, false));
    state.set_queued(true);
    let claim = state.claim_write().unwrap();
    assert!(state.retire());
    assert!(state.claim_read().is_none());
    assert_eq!(claim.release(true, true), Schedule::Unneeded);
    assert!(!state.bits().is_claimed() && state.claim_write().is_none());
}

#[test]
fn a_forked_child_claims_nothing_and_waits_for_no_claim() {
    let state = started();
    let _ = state.ready(event(true, false));
    state.set_queued(true);
    // Held by threads that are not in the child.
    std::mem::forget((state.claim_read().unwrap(), state.claim_write().unwrap()));
    state.after_fork();
    assert!(!state.bits().is_claimed() && !state.bits().is_queued());
    assert_eq!(state.ready(event(true, true)), Schedule::Unneeded);
    assert!(state.claim_read().is_none() && state.claim_write().is_none() && !state.retire());
}

#[test]
fn a_claim_whose_holder_panics_is_given_back_and_nothing_is_forgotten() {
    let state = started();
    let _ = state.ready(event(true, false));
    state.set_queued(true);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _claims = (state.begin_turn().claim.unwrap(), state.claim_write().unwrap());
        panic!("between the claim and the call");
    }));
    assert!(panicked.is_err() && !state.bits().is_claimed());
    assert_eq!(state.end_turn(), Schedule::Needed, "neither was done");
    assert!(state.claim_read().is_some() && state.claim_write().is_some());
}

#[test]
fn a_paused_transport_with_nothing_to_write_expects_nothing() {
    let state = State::new();
    state.pause();
    assert!(!state.bits().expects_nothing(), "its protocol does not know it yet");
    let _ = state.start();
    assert!(state.bits().expects_nothing());
    state.set_queued(true);
    assert!(!state.bits().expects_nothing());
    state.set_queued(false);
    let _ = state.resume();
    assert!(!state.bits().expects_nothing());
}
