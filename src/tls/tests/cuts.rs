//! Bytes arrive cut at any place: nothing depends on where.

use super::*;

/// Finishes a handshake in which the stream to one side is cut once, after so many bytes. Says how many bytes
/// there were.
fn cut_at(version: Version, to_server: bool, cut: usize) -> usize {
    let mut pair = pair(version);
    let mut passed = 0;
    loop {
        let (to_s, to_c) = (pair.client.give(), pair.server.give());
        if to_s.is_empty() && to_c.is_empty() {
            break;
        }
        for (bytes, is_cut, end) in
            [(to_s, to_server, &mut pair.server), (to_c, !to_server, &mut pair.client)]
        {
            let at = if is_cut { cut.saturating_sub(passed).min(bytes.len()) } else { 0 };
            if is_cut {
                passed += bytes.len();
            }
            let (before, after) = bytes.split_at(at);
            let _ = end.take(before).unwrap();
            let _ = end.take(after).unwrap();
        }
    }
    pair.echo(100);
    passed
}

#[test]
fn a_handshake_may_be_cut_at_every_byte() {
    for version in VERSIONS {
        for to_server in [true, false] {
            let length = cut_at(version, to_server, 0);
            // Signatures differ in length, by a few bytes.
            for cut in 1..length + 8 {
                cut_at(version, to_server, cut);
            }
        }
    }
}

#[test]
fn all_of_it_may_come_one_byte_at_a_time() {
    for version in VERSIONS {
        let mut pair = pair(version);
        assert_eq!(pair.pump_cut(|| 1), [None, None]);
        for end in [&mut pair.client, &mut pair.server] {
            assert!(!end.session.is_handshaking());
            let _ = end.session.send(b"byte by byte", &mut end.out).unwrap();
            end.session.close(&mut end.out);
        }
        assert_eq!(pair.pump_cut(|| 1), [None, None]);
        for end in [&pair.client, &pair.server] {
            assert_eq!((&end.plaintext[..], end.ended), (&b"byte by byte"[..], true));
        }
    }
}

#[test]
fn records_may_be_cut_at_every_byte() {
    for version in VERSIONS {
        let mut pair = pair(version).shaken();
        let Pair { client, server } = &mut pair;
        let length = client.send_all(b"first").len() + client.send_all(b"second").len();
        // What was made and thrown away is missed by a peer, so a pair begins anew for each place.
        for cut in 0..=length {
            let mut pair = self::pair(version).shaken();
            let Pair { client, server } = &mut pair;
            let mut all = client.send_all(b"first");
            all.extend(client.send_all(b"second"));
            let (before, after) = all.split_at(cut);
            let _ = server.take(before).unwrap();
            assert!(server.session.pending() < length / 2 + 8, "complete records do not wait");
            let _ = server.take(after).unwrap();
            assert_eq!((&server.plaintext[..], server.session.pending()), (&b"firstsecond"[..], 0));
        }
        drop(server.take(&[]));
    }
}

/// Whole connections with pieces of random sizes: handshake, data of random sizes from both sides at once, changed
/// keys, and the end.
#[test]
fn random_cuts_of_whole_connections() {
    for seed in 1..=200 {
        let mut random = Random(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let version = VERSIONS[random.below(2)];
        let most = [2, 50, 3_000, 60_000][random.below(4)];
        let mut pair = pair(version);
        let mut sizes = Random(seed);
        assert_eq!(pair.pump_cut(|| 1 + sizes.below(most)), [None, None], "seed {seed}");
        let mut sent = [Vec::new(), Vec::new()];
        for _ in 0..random.below(12) {
            for (end, sent) in [&mut pair.client, &mut pair.server].into_iter().zip(&mut sent) {
                let longest = 1 + random.below(2 * most);
                let data: Vec<u8> = (0..random.below(longest)).map(|at| at as u8).collect();
                let taken = end.session.send(&data, &mut end.out).unwrap();
                sent.extend_from_slice(&data[..taken]);
                if version == Version::Tls13 && random.below(4) == 0 {
                    end.session.update_keys(&mut end.out).unwrap();
                }
            }
            assert_eq!(pair.pump_cut(|| 1 + sizes.below(most)), [None, None], "seed {seed}");
        }
        for end in [&mut pair.client, &mut pair.server] {
            end.session.close(&mut end.out);
        }
        assert_eq!(pair.pump_cut(|| 1 + sizes.below(most)), [None, None], "seed {seed}");
        for (end, sent) in [&pair.server, &pair.client].into_iter().zip(&sent) {
            assert!(end.plaintext == *sent && end.ended, "seed {seed}");
            assert_eq!(end.session.pending(), 0, "seed {seed}");
        }
    }
}

/// What no peer would send neither panics, nor is kept, nor is handed on.
#[test]
fn random_bytes_end_a_connection() {
    for seed in 1..=300 {
        let mut random = Random(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let version = VERSIONS[random.below(2)];
        let mut pair = pair(version);
        if random.below(2) == 0 {
            pair = pair.shaken();
        }
        let end = if random.below(2) == 0 { &mut pair.client } else { &mut pair.server };
        // A header that may be one, so that some of it gets further than that.
        let mut bytes = vec![20 + random.below(5) as u8, 3, 3, 0, random.below(64) as u8];
        bytes.extend((0..4_000).map(|_| random.below(256) as u8));
        let failed = (0..20).find_map(|_| end.take(&bytes).err());
        assert!(failed.is_some(), "seed {seed}");
        assert!(end.plaintext.is_empty() && end.session.pending() == 0, "seed {seed}");
    }
}
