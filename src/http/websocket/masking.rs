//! The mask of a client's frames (RFC 6455, 5.3).

/// Takes the mask off, or puts it on. `offset`: bytes of the same payload before these.
pub(super) fn unmask(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let [a, b, c, d] = std::array::from_fn(|at| mask[(offset + at) % 4]);
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        let mut old = [0; 8];
        old.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(old) ^ word).to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip([a, b, c, d, a, b, c, d]) {
        *byte ^= mask;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::unmask;

    #[test]
    fn a_mask_goes_on_across_pieces() {
        let mask = [1, 2, 4, 8];
        let plain: Vec<u8> = (0..100).collect();
        let masked: Vec<u8> = plain.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
        for cut in 0..plain.len() {
            let mut bytes = masked.clone();
            let (before, after) = bytes.split_at_mut(cut);
            unmask(before, mask, 0);
            unmask(after, mask, cut);
            assert_eq!(bytes, plain, "cut at {cut}");
        }
    }
}
