//! What another thread has read for the owner is bounded in memory.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write;

use super::tests::{assert_same, pattern, unix};
use super::*;

#[test]
fn small_pieces_are_joined_as_they_are_read_ahead() {
    const ALL: usize = 3 * config::READ_AHEAD_PIECE + 1;
    let (mut owner, mut far) = unix();
    let all = pattern(0, ALL);
    for piece in all.chunks(61) {
        far.write_all(piece).unwrap();
        owner.helper.poll();
        let _ = owner.helper.run_elsewhere();
    }
    assert_eq!(owner.stream.ahead_bytes(), ALL);
    let pieces = owner.stream.take_ahead();
    assert!(pieces.len() <= 4, "{} pieces", pieces.len());
    owner.stream.put_back_ahead(pieces);
    assert_eq!(owner.stream.ahead_bytes(), ALL);
    drop(far);
    owner.run_until(|owner| owner.ends > 0);
    assert_same(&owner.received, &all);
}

/// As when room to write is reported with it, again and again.
#[test]
fn an_end_is_read_ahead_once_however_often_it_is_reported() {
    let (owner, far) = unix();
    drop(far);
    owner.helper.poll();
    for _ in 0..100 {
        let token = owner.stream.link().token().unwrap();
        let _ = owner.stream.ready(Ready { token, readable: true, writable: true, ended: true });
        let _ = owner.helper.run_elsewhere();
    }
    let ahead = owner.stream.take_ahead();
    assert_eq!(ahead.len(), 1);
    owner.stream.put_back_ahead(ahead);
    let _ = owner.helper.run_elsewhere();
    assert_eq!(owner.stream.take_ahead().len(), 1, "nor when it was put back");
}
