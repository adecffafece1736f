//! How connections end: said, cut off, in halves, and by an error.

use super::*;

#[test]
fn an_end_that_was_said_is_no_truncation() {
    for version in VERSIONS {
        let mut pair = pair(version).shaken();
        let Pair { client, server } = &mut pair;
        client.session.close(&mut client.out);
        let word = client.give();
        assert!(!word.is_empty());
        assert!(server.take(&word).unwrap().is_end && server.session.is_peer_closed());
        assert_eq!(server.session.receive_end(), Ok(()));
        assert_eq!(server.take(b"what comes after it is ignored").unwrap(), Received::default());
        assert_eq!(server.session.pending(), 0);
        client.session.close(&mut client.out);
        assert!(client.out.is_empty(), "it is said once");
        assert_eq!(client.session.send(b"x", &mut client.out), Err(Failure::Closed));
    }
}

#[test]
fn data_before_the_end_arrive_before_it() {
    for version in VERSIONS {
        let mut pair = pair(version).shaken();
        let Pair { client, server } = &mut pair;
        let mut all = client.send_all(b"the last");
        client.session.close(&mut client.out);
        all.extend(client.give());
        let received = server.take(&all).unwrap();
        assert_eq!((received.plaintext, received.is_end), (8, true));
        assert_eq!(server.plaintext, b"the last");
    }
}

#[test]
fn either_half_may_end_before_the_other() {
    for version in VERSIONS {
        for client_first in [true, false] {
            let mut pair = pair(version).shaken();
            let Pair { client, server } = &mut pair;
            let (first, second) = if client_first { (client, server) } else { (server, client) };
            first.session.close(&mut first.out);
            let word = first.give();
            assert!(second.take(&word).unwrap().is_end);
            for _ in 0..3 {
                let data = second.send_all(b"still here");
                assert_eq!(first.take(&data).unwrap().plaintext, 10);
            }
            second.session.close(&mut second.out);
            let word = second.give();
            assert!(first.take(&word).unwrap().is_end);
            assert_eq!(first.session.receive_end(), Ok(()));
            assert_eq!(second.session.send(b"x", &mut second.out), Err(Failure::Closed));
        }
    }
}

/// All that a client sends in a connection, and where its handshake ends for the server.
fn conversation(version: Version) -> (Vec<u8>, ServerSettings, Vec<usize>) {
    let (_, mut client, mut server) = options(version);
    (client.sessions, server.tickets) = (0, 0);
    let (client, server_settings) = settings(client, server);
    let mut pair = Pair::new(&client, &server_settings);
    let mut flights = Vec::new();
    let mut all = Vec::new();
    while pair.server.session.is_handshaking() {
        let flight = pair.client.give();
        all.extend(&flight);
        flights.push(all.len());
        let _ = pair.server.take(&flight).unwrap();
        let answer = pair.server.give();
        let _ = pair.client.take(&answer).unwrap();
    }
    (all, server_settings, flights)
}

#[test]
fn a_stream_that_ends_anywhere_else_is_truncated() {
    for version in VERSIONS {
        // A handshake differs each time, so the first flight is cut at every place, and those after it
        // in a connection of their own.
        let (all, server, flights) = conversation(version);
        for cut in 0..flights[0] {
            let mut end = End::new(Session::server(&server).unwrap(), Ciphertext::default());
            let _ = end.take(&all[..cut]).unwrap();
            assert_eq!(end.session.receive_end(), Err(Failure::Truncated { in_handshake: true }));
        }
        let mut pair = pair(version).shaken();
        let Pair { client, server } = &mut pair;
        let record = client.send_all(b"0123456789");
        for byte in &record[..record.len() - 1] {
            assert_eq!(server.take(&[*byte]).unwrap(), Received::default());
        }
        assert_eq!(server.session.pending(), record.len() - 1);
        let truncated = Failure::Truncated { in_handshake: false };
        assert_eq!(server.session.receive_end(), Err(truncated.clone()));
        assert_eq!(truncated.reason(), "UNEXPECTED_EOF_WHILE_READING");
        assert_eq!(server.session.pending(), 0, "what nobody will read is dropped");
        assert_eq!(server.session.receive_end(), Err(truncated.clone()));
        assert_eq!(server.session.send(b"x", &mut server.out), Err(truncated));
    }
}

#[test]
fn every_flight_of_a_handshake_may_be_the_last() {
    for version in VERSIONS {
        for flights in 0.. {
            let mut pair = pair(version);
            for _ in 0..flights {
                let flight = pair.client.give();
                let _ = pair.server.take(&flight).unwrap();
                let flight = pair.server.give();
                let _ = pair.client.take(&flight).unwrap();
            }
            let mut done = true;
            for end in [&mut pair.client, &mut pair.server] {
                let in_handshake = end.session.is_handshaking();
                done &= !in_handshake;
                assert_eq!(end.session.receive_end(), Err(Failure::Truncated { in_handshake }));
            }
            if done {
                break;
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_found_and_said() {
    for version in VERSIONS {
        let length = pair(version).shaken().client.send_all(b"0123456789").len();
        for at in 0..length {
            // A version stands here, which TLS 1.3 says is not to be looked at.
            if version == Version::Tls13 && [1, 2].contains(&at) {
                continue;
            }
            let mut pair = pair(version).shaken();
            let Pair { client, server } = &mut pair;
            let mut record = client.send_all(b"0123456789");
            record[at] ^= 0x10;
            // The record may seem longer than it is.
            let failed = server.take(&record).err();
            let failed = failed.or_else(|| server.take(&vec![0; 20_000]).err());
            let failed = failed.unwrap_or_else(|| panic!("{version:?}: byte {at}"));
            assert!(server.plaintext.is_empty(), "nothing of it is handed on");
            assert!(
                matches!(failed, Failure::BadRecord | Failure::NotTls | Failure::Protocol(_)),
                "{failed:?}"
            );
            assert_eq!(server.take(&record), Err(failed), "it stays so");
            let alert = server.give();
            let told = client.take(&alert).unwrap_err();
            assert!(matches!(told, Failure::Alert(_)), "{told:?}");
        }
    }
}

#[test]
fn data_before_an_error_are_handed_on() {
    for version in VERSIONS {
        let mut pair = pair(version).shaken();
        let Pair { client, server } = &mut pair;
        let mut records = client.send_all(b"good");
        let at = records.len();
        records.extend(client.send_all(b"bad"));
        records[at + 12] ^= 1;
        assert_eq!(server.take(&records), Err(Failure::BadRecord));
        assert_eq!(server.plaintext, b"good");
    }
}

#[test]
fn a_flipped_bit_of_a_handshake_ends_it() {
    for version in VERSIONS {
        let (all, server, flights) = conversation(version);
        for at in 0..flights[0] {
            let mut hello = all[..flights[0]].to_vec();
            hello[at] ^= 1;
            let mut end = End::new(Session::server(&server).unwrap(), Ciphertext::default());
            // What cannot be told from a good one is found by the finishing messages at the latest: the
            // server does not finish the handshake, and does not panic.
            let _ = end.take(&hello);
            assert!(end.session.is_handshaking());
            assert!(end.plaintext.is_empty());
        }
    }
}

#[test]
fn a_close_during_the_handshake_says_nothing() {
    for version in VERSIONS {
        let mut pair = pair(version);
        let hello = pair.client.give();
        let _ = pair.server.take(&hello).unwrap();
        let _ = pair.server.give();
        for end in [&mut pair.client, &mut pair.server] {
            end.session.close(&mut end.out);
            assert!(end.out.is_empty());
            assert_eq!(end.session.send(b"x", &mut end.out), Err(Failure::Closed));
        }
    }
}
