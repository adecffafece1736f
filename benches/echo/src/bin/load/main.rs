//! Load for echo servers and others: `load --port PORT [option]...`; `load` alone lists the options.
//!
//! One thread, or as many as are asked for, which have to cost little beside the server that they
//! measure. It reads the server's CPU time itself (`--pid`), at the two ends of the measured time and
//! not somewhere near them.

mod bulk;
mod connection;
mod idle;
mod options;
mod requests;
mod socket;
mod system;
mod tally;

use std::process::ExitCode;
use std::{env, io};

use options::{Mode, Options};

fn run(options: &Options) -> io::Result<()> {
    let line = match options.mode {
        Mode::Closed | Mode::Churn | Mode::Open { .. } => requests::run(options)?,
        Mode::Bulk(direction) => bulk::run(options, direction)?,
        Mode::Idle { connections } => return idle::run(options, connections),
    };
    println!("{line}");
    Ok(())
}

fn main() -> ExitCode {
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("load: {message}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}
