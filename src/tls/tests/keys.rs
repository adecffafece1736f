//! Records that are sealed and opened without rustls, among those that are rustls's.

use super::*;

const DATA: u8 = 23;
const HANDSHAKE: u8 = 22;

/// A message that a client takes at any time: a ticket.
const TICKET: [u8; 18] = [4, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 7, 0, 0];

/// A pair that has sent data, so that its keys are known.
fn settled() -> Pair {
    let mut pair = pair(Version::Tls13).shaken();
    pair.echo(10);
    for end in [&pair.client, &pair.server] {
        assert!(matches!(end.session.record_keys(), (Some(_), Some(_))));
    }
    pair
}

/// A record of the server's.
fn record(pair: &Pair, kind: u8, inner: &[u8]) -> Vec<u8> {
    pair.server.session.record_keys().0.unwrap().record(kind, inner)
}

#[test]
fn tls_1_2_is_left_to_rustls() {
    let mut pair = pair(Version::Tls12).shaken();
    pair.echo(100_000);
    assert!(matches!(pair.server.session.record_keys(), (None, None)));
}

#[test]
fn new_keys_are_rustlss_until_it_has_used_them() {
    let mut pair = settled();
    let Pair { client, server } = &mut pair;
    client.session.update_keys(&mut client.out).unwrap();
    assert!(client.session.record_keys().0.is_none());
    let bytes = client.give();
    let _ = server.take(&bytes).unwrap();
    assert!(matches!(server.session.record_keys(), (None, None)), "it answers with new ones");
    pair.echo(10);
    assert!(matches!(pair.server.session.record_keys(), (Some(_), Some(_))));
}

#[test]
fn keys_are_changed_before_they_are_worn() {
    let mut pair = settled();
    for left in [18, 17, 100] {
        let Pair { client, server } = &mut pair;
        client.session.record_keys().0.unwrap().wear_out(left);
        server.session.record_keys().1.unwrap().wear_out(left);
        let changed = client.send_all(&vec![7; 100 * 16 * 1024]);
        server.plaintext.clear();
        for piece in changed.chunks(64 * 1024) {
            let _ = server.take(piece).unwrap();
        }
        assert!(server.plaintext == vec![7; 100 * 16 * 1024]);
        let sealed = client.session.record_keys().0;
        assert!(sealed.is_none_or(|key| key.lasts_for(1 << 20)), "{left}: by new ones");
        assert_eq!(pair.pump(), [None, None]);
        pair.echo(100_000);
    }
}

#[test]
fn data_and_what_is_said_besides_keep_their_order_in_one_read() {
    let mut pair = settled();
    let Pair { client, server } = &mut pair;
    let mut all = client.send_all(b"one");
    client.session.update_keys(&mut client.out).unwrap();
    all.extend(client.give());
    all.extend(client.send_all(b", two"));
    all.extend(client.send_all(b", three"));
    client.session.close(&mut client.out);
    all.extend(client.give());
    server.plaintext.clear();
    let received = server.take(&all).unwrap();
    assert_eq!(server.plaintext, b"one, two, three");
    assert!(received.is_end && received.plaintext == 15);
}

#[test]
fn padding_is_no_data() {
    let mut pair = settled();
    let mut all = record(&pair, 0, &[b'a', DATA, 0, 0, 0]);
    all.extend(record(&pair, DATA, b"b"));
    all.extend(record(&pair, DATA, b""));
    all.extend(record(&pair, 0, &[b"\0c\0".as_slice(), &[DATA]].concat()));
    pair.client.plaintext.clear();
    let _ = pair.client.take(&all).unwrap();
    assert_eq!(pair.client.plaintext, b"ab\0c\0");
}

#[test]
fn a_record_of_padding_alone_is_refused() {
    let mut pair = settled();
    let record = record(&pair, 0, &[0; 100]);
    assert!(matches!(pair.client.take(&record), Err(Failure::Protocol(_))));
}

#[test]
fn more_data_than_a_record_may_have_are_refused() {
    let mut pair = settled();
    let full = record(&pair, DATA, &vec![1; 16 * 1024]);
    let _ = pair.client.take(&full).unwrap();
    let longer = record(&pair, DATA, &vec![1; 16 * 1024 + 1]);
    assert!(pair.client.take(&longer).is_err());
    assert!(!pair.client.out.is_empty(), "the peer is told");
}

#[test]
fn a_record_that_was_changed_is_refused_and_what_came_before_is_not() {
    for at in [5, 6, 20, 41] {
        let mut pair = settled();
        let mut all = record(&pair, DATA, b"good");
        let from = all.len();
        all.extend(record(&pair, DATA, b"and this was changed"));
        assert_eq!(all.len() - from, 42);
        all[from + at] ^= 1;
        pair.client.plaintext.clear();
        assert_eq!(pair.client.take(&all), Err(Failure::BadRecord));
        assert_eq!(pair.client.plaintext, b"good");
        assert!(!pair.client.out.is_empty(), "the peer is told");
    }
}

#[test]
fn a_record_that_comes_twice_or_too_early_is_refused() {
    for drop_first in [false, true] {
        let mut pair = settled();
        let first = record(&pair, DATA, b"1");
        let second = record(&pair, DATA, b"2");
        let (one, other) = if drop_first { (&second, &first) } else { (&first, &first) };
        let _ = pair.client.take(one).and_then(|_| pair.client.take(other)).unwrap_err();
    }
}

#[test]
fn a_message_of_several_records_is_put_together_however_it_is_cut() {
    for at in 1..TICKET.len() {
        let pieces = [2, 30, 64, usize::MAX];
        for size in pieces {
            let mut pair = settled();
            let mut all = record(&pair, DATA, b"before");
            all.extend(record(&pair, HANDSHAKE, &TICKET[..at]));
            all.extend(record(&pair, HANDSHAKE, &TICKET[at..]));
            all.extend(record(&pair, DATA, b", behind"));
            pair.client.plaintext.clear();
            for piece in all.chunks(size.min(all.len())) {
                let _ = pair.client.take(piece).unwrap();
            }
            assert_eq!(pair.client.plaintext, b"before, behind");
            assert_eq!(pair.client.session.pending(), 0, "nothing is kept");
            pair.echo(100);
        }
    }
}

#[test]
fn data_in_the_middle_of_a_message_are_refused() {
    for at_once in [false, true] {
        let mut pair = settled();
        let begun = record(&pair, HANDSHAKE, &TICKET[..7]);
        let data = record(&pair, DATA, b"no");
        pair.client.plaintext.clear();
        let refused = if at_once {
            pair.client.take(&[begun, data].concat())
        } else {
            let _ = pair.client.take(&begun).unwrap();
            pair.client.take(&data)
        };
        assert!(matches!(refused, Err(Failure::Protocol(_))), "{refused:?}");
        assert!(pair.client.plaintext.is_empty());
    }
}

#[test]
fn a_peer_that_only_changes_its_keys_is_refused_but_not_one_that_sends_between() {
    let mut pair = settled();
    for _ in 0..100 {
        let Pair { client, server } = &mut pair;
        client.session.update_keys(&mut client.out).unwrap();
        let bytes = client.give();
        let _ = server.take(&bytes).unwrap();
        pair.echo(10);
    }
    let Pair { client, server } = &mut pair;
    let failed = (0..100).find_map(|_| {
        client.session.update_keys(&mut client.out).unwrap();
        let bytes = client.give();
        server.take(&bytes).err()
    });
    assert!(matches!(failed, Some(Failure::Protocol(_))), "{failed:?}");
}

#[test]
fn what_is_no_record_fails_as_soon_as_that_is_seen() {
    let whole: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n", &[22, 9, 3, 0, 1], &[23, 3, 3, 0x48, 0], &[22, 3, 3, 0, 0]];
    for (bytes, needed) in whole.into_iter().zip([1, 3, 5, 5]) {
        let mut pair = settled();
        for byte in &bytes[..needed - 1] {
            let _ = pair.client.take(&[*byte]).unwrap();
        }
        assert!(pair.client.take(&bytes[needed - 1..needed]).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_record_that_only_tls_1_2_may_have_is_refused_when_it_is_whole() {
    // Cut where what follows looks like a record of its own.
    let mut record = vec![23, 3, 3, 0x42, 0x68];
    record.resize(5 + 0x4268, 0);
    record[1000..1005].copy_from_slice(&[23, 3, 3, 0x40, 0]);
    let mut pair = settled();
    let _ = pair.client.take(&record[..1000]).unwrap();
    assert_eq!(pair.client.take(&record[1000..]), Err(Failure::BadRecord));
}

#[test]
fn empty_records_are_refused_only_in_a_row() {
    let mut pair = settled();
    for _ in 0..100 {
        let between = [record(&pair, DATA, b"data"), record(&pair, DATA, b"")].concat();
        let _ = pair.client.take(&between).unwrap();
    }
    let failed = (0..100).find_map(|_| {
        let empty = record(&pair, DATA, b"");
        pair.client.take(&empty).err()
    });
    assert!(matches!(failed, Some(Failure::Protocol(_))), "{failed:?}");
}

#[test]
fn a_version_of_another_protocol_is_refused_wherever_the_record_is_cut() {
    for cut in 1..30 {
        let mut pair = settled();
        let mut record = record(&pair, DATA, b"datagrams");
        record[1..3].copy_from_slice(&[0xfe, 0xfd]);
        let (first, rest) = record.split_at(cut);
        let refused = pair.client.take(first).and_then(|_| pair.client.take(rest));
        assert!(matches!(refused, Err(Failure::Protocol(_))), "{cut}: {refused:?}");
        assert!(pair.client.session.send(b"x", &mut Ciphertext::default()).is_err());
    }
}

#[test]
fn keys_that_cannot_be_changed_when_they_are_worn_end_the_connection_once() {
    let mut pair = settled();
    let begun = record(&pair, HANDSHAKE, &TICKET[..7]);
    let Pair { client, .. } = &mut pair;
    let _ = client.take(&begun).unwrap();
    client.session.record_keys().0.unwrap().wear_out(10);
    let failed = client.session.send(b"data", &mut client.out).unwrap_err();
    for _ in 0..3 {
        assert_eq!(client.session.send(b"data", &mut client.out), Err(failed.clone()));
    }
}
