//! Connections that only exist.

use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use crate::options::Options;
use crate::socket::Socket;
use crate::system;
use crate::tally::Line;

/// So many connections are opened at once, then the server gets time to accept them: one whose
/// queue overflows makes the client wait for a second.
const BATCH: usize = 32;
const PAUSE: Duration = Duration::from_millis(2);

/// Open the connections, say so, and hold them until standard input ends.
///
/// # Errors
///
/// Not all of the connections could be opened.
pub(crate) fn run(options: &Options, count: usize) -> io::Result<()> {
    system::raise_descriptor_limit()?;
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        streams.push(Socket::connect_to_idle(&options.server)?);
        if number % BATCH == BATCH - 1 {
            sleep(PAUSE);
        }
    }
    let mut line = Line::new();
    line.add("connections", streams.len());
    println!("{line}");
    io::stdout().flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
