//! Which certificates a peer is verified by: OpenSSL's search, with what is trusted looked at first.
//!
//! AWS-LC descends from an older OpenSSL and searches in another way; where a peer sends certificates that fit in more
//! than one way, both may find different chains. So the search is OpenSSL's, and AWS-LC is given its outcome.

use super::store::{Store, best_issuer};
use super::{Certificate, Code};

/// The most certificates of a chain: the peer's, OpenSSL's limit of 100 between, and a trusted one. It looks for one
/// more, to say that there were too many.
const LIMIT: usize = 101;

/// What was found.
#[derive(Debug)]
pub(super) struct Built {
    /// From the peer's certificate on; never empty.
    pub(super) certificates: Vec<Certificate>,
    /// Whether it leads to a trusted one.
    pub(super) verdict: Result<(), Code>,
}

/// Looks for the chain of `leaf` among what the peer has `sent`, itself included, and what is trusted. `may_be_partial`:
/// whether it may end with a trusted one that others have signed.
pub(super) fn build(
    store: &Store,
    leaf: &Certificate,
    mut sent: Vec<Certificate>,
    may_be_partial: bool,
    now: i64,
) -> Built {
    let mut chain = vec![leaf.clone()];
    // How many of them the peer gave: those behind are the store's.
    let mut untrusted = 1;
    let mut is_sent_searched = true;
    let mut is_trusted = false;
    while !is_trusted {
        let last = chain[chain.len() - 1].clone();
        let is_full = chain.len() > LIMIT;
        let is_end = last.is_self_signed();
        match if is_full { None } else { store.issuer(&last, now) } {
            Some(issuer) if !is_end => {
                is_sent_searched = false;
                is_trusted = may_be_partial || issuer.is_self_signed();
                chain.push(issuer);
                continue;
            }
            // It is trusted itself. Another one may have its name alone.
            Some(issuer) if issuer.is(&last) => {
                is_trusted = true;
                untrusted = chain.len() - 1;
                continue;
            }
            _ if !is_sent_searched => break,
            _ => {}
        }
        match if is_full || is_end { None } else { next_sent(&sent, &chain, &last, now) } {
            Some(place) => {
                chain.push(sent.remove(place));
                untrusted += 1;
            }
            None => is_sent_searched = false,
        }
    }
    let is_all_sent = chain.len() == untrusted;
    if !is_trusted && is_all_sent && chain.len() <= LIMIT && may_be_partial {
        // The peer's certificate may be trusted itself, whatever issued it.
        if let Some(trusted) = store.find(leaf) {
            chain[0] = trusted;
            is_trusted = true;
            untrusted = 0;
        }
    }
    let verdict = if is_trusted { Ok(()) } else { Err(why_not(&chain, untrusted)) };
    Built { certificates: chain, verdict }
}

/// The place of the issuer of `last` among what the peer has sent: one that is not in the chain, unless the peer's
/// certificate has its own name as its issuer's.
fn next_sent(
    sent: &[Certificate],
    chain: &[Certificate],
    last: &Certificate,
    now: i64,
) -> Option<usize> {
    let may_repeat = chain.len() == 1 && last.is_named_by(last);
    let is_new = |each: &&Certificate| may_repeat || !chain.iter().any(|known| known.is(each));
    let issuer = best_issuer(sent.iter().filter(is_new), last, now)?;
    sent.iter().position(|each| std::ptr::eq(each, issuer))
}

/// Why a chain is not trusted.
fn why_not(chain: &[Certificate], untrusted: usize) -> Code {
    let is_end = chain.last().is_some_and(Certificate::is_self_signed);
    match chain.len() {
        length if length > LIMIT => Code::CHAIN_TOO_LONG,
        1 if is_end => Code::SELF_SIGNED,
        _ if is_end => Code::SELF_SIGNED_IN_CHAIN,
        length if untrusted < length => Code::UNABLE_TO_GET_ISSUER,
        _ => Code::UNABLE_TO_GET_ISSUER_LOCALLY,
    }
}
