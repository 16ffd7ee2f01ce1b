//! Session keys for whoever debugs with a packet sniffer (`key_log`).

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

/// Appends to a file in the NSS key log format. Debugging only: it takes a lock for every handshake.
#[derive(Debug)]
pub(super) struct FileKeyLog(Mutex<File>);

impl FileKeyLog {
    pub(super) fn open(path: &str) -> io::Result<Self> {
        Ok(Self(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?)))
    }
}

impl rustls::KeyLog for FileKeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        let hex = |line: &mut String, bytes: &[u8]| {
            for byte in bytes {
                let _ = write!(line, "{byte:02x}");
            }
        };
        hex(&mut line, client_random);
        line.push(' ');
        hex(&mut line, secret);
        line.push('\n');
        // Nobody can be told of a failure here.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}
