//! The secrets of connections, in the format of NSS, for programs that look into them (Wireshark).

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustls::KeyLog;

use crate::sync::Mutex;

/// A file to which the secrets are appended. A line is written at once, so that lines of several
/// connections do not mix.
#[derive(Debug)]
pub(super) struct KeyLogFile(Mutex<File>);

impl KeyLogFile {
    /// Opens a file, or makes it, readable by its owner alone.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self(Mutex::new(file)))
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        for (bytes, end) in [(client_random, ' '), (secret, '\n')] {
            for byte in bytes {
                // A string takes all.
                let _ = write!(line, "{byte:02x}");
            }
            line.push(end);
        }
        // As OpenSSL, whose connections go on when the disk is full.
        let _ = self.0.lock().write_all(line.as_bytes());
    }
}
