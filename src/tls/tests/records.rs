//! Data of all sizes, bounds, and keys that change.

use super::*;

#[test]
fn data_of_all_sizes_arrive_as_they_were() {
    for version in VERSIONS {
        let mut pair = pair(version).shaken();
        for size in [1, 100, 1024, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 100_000, 1 << 20] {
            pair.echo(size);
        }
    }
}

#[test]
fn nothing_makes_no_record() {
    for version in VERSIONS {
        let mut pair = pair(version).shaken();
        assert_eq!(pair.client.session.send(b"", &mut pair.client.out), Ok(0));
        assert!(pair.client.out.is_empty());
        assert_eq!(pair.server.take(b"").unwrap(), Received::default());
    }
}

#[test]
fn no_more_is_encrypted_than_one_write_takes() {
    for version in VERSIONS {
        let mut pair = pair(version).shaken();
        let end = &mut pair.client;
        let data = vec![7; 10 * WRITE_LIMIT];
        assert_eq!(end.session.send(&data, &mut end.out), Ok(WRITE_LIMIT));
        let length = end.out.len();
        assert!(length < WRITE_LIMIT + 16 * 64, "sixteen records");
        assert_eq!(end.session.send(&data, &mut end.out), Ok(0));
        assert_eq!(end.out.len(), length);
        let bytes = end.give();
        for piece in bytes.chunks(MIN_SCRATCH / 2) {
            let _ = pair.server.take(piece).unwrap();
        }
        assert!(pair.server.plaintext == data[..WRITE_LIMIT]);
    }
}

#[test]
fn data_are_refused_before_the_handshake_is_finished() {
    for version in VERSIONS {
        let mut pair = pair(version);
        for _ in 0..4 {
            for end in [&mut pair.client, &mut pair.server] {
                let was_handshaking = end.session.is_handshaking();
                let before = end.out.len();
                let taken = end.session.send(b"x", &mut end.out).unwrap();
                assert_eq!(taken, usize::from(!was_handshaking));
                assert_eq!(end.out.len() == before, was_handshaking);
            }
            let flight = pair.client.give();
            let _ = pair.server.take(&flight).unwrap();
            let flight = pair.server.give();
            let _ = pair.client.take(&flight).unwrap();
        }
    }
}

#[test]
fn keys_change_and_data_go_on() {
    let mut pair = pair(Version::Tls13).shaken();
    for _ in 0..20 {
        for end in [&mut pair.client, &mut pair.server] {
            end.session.update_keys(&mut end.out).unwrap();
            assert!(!end.out.is_empty());
        }
        assert_eq!(pair.pump(), [None, None]);
        pair.echo(1000);
    }
}

#[test]
fn keys_change_in_the_middle_of_a_record_that_comes() {
    let mut pair = pair(Version::Tls13).shaken();
    let Pair { client, server } = &mut pair;
    let record = client.send_all(b"in two parts");
    let _ = server.take(&record[..7]).unwrap();
    server.session.update_keys(&mut server.out).unwrap();
    assert_eq!(server.session.send(b"meanwhile", &mut server.out), Ok(9));
    let bytes = server.give();
    let _ = client.take(&bytes).unwrap();
    let _ = server.take(&record[7..]).unwrap();
    assert_eq!(
        (&client.plaintext[..], &server.plaintext[..]),
        (&b"meanwhile"[..], &b"in two parts"[..])
    );
    assert_eq!(pair.pump(), [None, None]);
    pair.echo(100);
}

#[test]
fn keys_of_tls_1_2_do_not_change() {
    let mut pair = pair(Version::Tls12).shaken();
    let end = &mut pair.client;
    assert!(end.session.update_keys(&mut end.out).is_err());
    pair.echo(100);
}

#[test]
fn a_long_chain_makes_a_handshake_of_many_records() {
    for version in VERSIONS {
        let (authority, client, mut server) = options(version);
        let names: Vec<String> = (0..2_000).map(|at| format!("host-{at}.example")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.push("localhost");
        server.identity = authority.issue(&names);
        let (client, server) = settings(client, server);
        for most in [100, 5_000, 64 * 1024] {
            let mut pair = Pair::new(&client, &server);
            assert_eq!(pair.pump_cut(|| most), [None, None]);
            pair.echo(100);
        }
    }
}

#[test]
fn what_waits_for_its_rest_is_bounded() {
    let mut pair = pair(Version::Tls13);
    let _ = pair.client.give();
    // A message of 60,000 bytes, in records of one byte each.
    let message = [1, 0, 0xEA, 0x60].into_iter().chain(std::iter::repeat(0));
    let mut failure = None;
    let mut most = 0;
    for byte in message.take(60_000) {
        if let Err(error) = pair.server.take(&[22, 3, 1, 0, 1, byte]) {
            failure = Some(error);
            break;
        }
        most = most.max(pair.server.session.pending());
    }
    assert!(matches!(failure, Some(Failure::Protocol(_))), "{failure:?}, {most}");
    assert!(most < MIN_SCRATCH);
    assert_eq!(pair.server.session.pending(), 0);
}

#[test]
fn ciphertext_keeps_its_memory_and_its_order() {
    let mut out = Ciphertext::default();
    assert!(out.is_empty());
    for round in 0..3 {
        for size in [1, 10, 1000] {
            out.reserve(size);
            out.room()[..size].fill(round);
            out.filled(size);
        }
        assert_eq!((out.len(), out.bytes().iter().all(|byte| *byte == round)), (1011, true));
        out.clear();
        assert!(out.is_empty() && out.bytes().is_empty());
        assert!(out.room().len() >= 1011);
    }
}

#[test]
fn ciphertext_is_taken_with_its_memory_and_gets_it_back() {
    let mut out = Ciphertext::default();
    let write = |out: &mut Ciphertext, byte: u8, count: usize| {
        out.spare(count).fill(std::mem::MaybeUninit::new(byte));
        // SAFETY: they were written just now.
        unsafe { out.filled_spare(count) };
    };
    write(&mut out, 1, 1000);
    out.reserve(100);
    out.room()[..100].fill(2);
    out.filled(100);
    write(&mut out, 3, 5000);
    let expected = [vec![1; 1000], vec![2; 100], vec![3; 5000]].concat();
    assert_eq!(out.bytes(), expected);
    let taken = out.take();
    assert!(taken == expected && out.is_empty() && out.room().is_empty());
    write(&mut out, 4, 10);
    out.give_back(taken.clone());
    assert_eq!(out.bytes(), [4; 10], "what is to be sent stays");
    out.clear();
    out.give_back(taken);
    assert!(out.is_empty() && out.room().len() == expected.len());
    out.give_back(vec![5; 10]);
    assert_eq!(out.room().len(), expected.len(), "the larger one is kept");
}
