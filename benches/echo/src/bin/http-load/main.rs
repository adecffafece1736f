//! Load for HTTP/1.1 and WebSocket servers: `http-load --port PORT [option]...`; `http-load` alone
//! lists the options.
//!
//! As `load`, it is one thread, keeps a closed loop or a fixed rate, checks every byte of what it
//! is answered, and reads the server's CPU time at the two ends of the measured time: here that of
//! the server's process and of all its descendants.

mod ask;
mod engine;
mod exchange;
mod options;
mod processes;
#[path = "../load/socket.rs"]
#[allow(dead_code, reason = "`load` uses the rest")]
mod socket;
#[path = "../load/system.rs"]
#[allow(dead_code, reason = "`load` uses the rest")]
mod system;
#[path = "../load/tally.rs"]
#[allow(dead_code, reason = "`load` uses the rest")]
mod tally;

use std::env;
use std::process::ExitCode;

use options::Options;

fn main() -> ExitCode {
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("http-load: {message}");
            return ExitCode::from(2);
        }
    };
    let done = match options.idle {
        Some(count) => ask::hold(&options, count).map(|()| String::new()),
        None => engine::run(&options).map(|line| format!("{line}\n")),
    };
    match done {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            if options.idle.is_some() {
                // Whoever reads a line and then waits has to hear of it, too.
                println!("{{\"error\": {:?}}}", error.to_string());
            }
            eprintln!("http-load: {error}");
            ExitCode::FAILURE
        }
    }
}
