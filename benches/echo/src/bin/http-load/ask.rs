//! Requests on sockets that block, one at a time: what is asked of a server before the load, and
//! connections that only exist.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::exchange;
use crate::options::Options;
use crate::system;
use crate::tally::Line;

const READ_SIZE: usize = 65536;
/// A server that says nothing for so long is given up.
const TIMEOUT: Duration = Duration::from_secs(10);
/// So many connections are opened for each one that is wanted, then the search is given up.
const ATTEMPTS: usize = 20;
/// How often each connection is asked where it is answered.
const ASKED: usize = 3;

/// Connections by what is answered on them.
pub(crate) struct Alike {
    /// On these, the same.
    pub(crate) chosen: Vec<TcpStream>,
    /// The others that were opened. As long as they are open, a server that counts connections does
    /// not take the loop of the chosen ones for the busy one.
    pub(crate) others: Vec<TcpStream>,
}

/// Request a path and return the body of the response.
///
/// # Errors
///
/// As those of the socket; `InvalidData` if the response is not a 200 with a content-length.
pub(crate) fn get(stream: &mut TcpStream, host: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let invalid = |text: String| io::Error::new(ErrorKind::InvalidData, format!("{path}: {text}"));
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&exchange::get(path, host))?;
    let mut received = Vec::new();
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by server")),
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let text = format!("no answer within {} s", TIMEOUT.as_secs());
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            Err(error) => return Err(error),
        }
        if let Some(body) = exchange::response(&received, None).map_err(invalid)? {
            if body.end < received.len() {
                return Err(invalid("more bytes than the response has".to_owned()));
            }
            return Ok(received.split_off(body.start));
        }
    }
}

/// Open connections until `count` of them are answered the same at `path`.
///
/// # Errors
///
/// There are no such connections, as with a server that answers the requests of one connection in
/// several places. Also as `get`.
pub(crate) fn find_alike(host: SocketAddr, path: &str, count: usize) -> io::Result<Alike> {
    let mut found: BTreeMap<Vec<u8>, Vec<TcpStream>> = BTreeMap::new();
    let mut unsteady = Vec::new();
    for _ in 0..ATTEMPTS * count {
        let mut stream = TcpStream::connect(host)?;
        let answers: io::Result<Vec<_>> =
            (0..ASKED).map(|_| get(&mut stream, host, path)).collect();
        let mut answers = answers?;
        answers.dedup();
        let (Some(answer), true) = (answers.pop(), answers.is_empty()) else {
            unsteady.push(stream);
            if unsteady.len() > count {
                break;
            }
            continue;
        };
        let same = found.entry(answer.clone()).or_default();
        same.push(stream);
        if same.len() == count {
            let chosen = found.remove(&answer).unwrap_or_default();
            let others = found.into_values().flatten().chain(unsteady).collect();
            return Ok(Alike { chosen, others });
        }
    }
    let text = if unsteady.len() > count {
        "the requests of a connection are answered in several places"
    } else {
        "too few connections are answered in one place"
    };
    Err(io::Error::other(format!("{path}: {text}")))
}

/// Open connections, have one request answered on each, say so, and hold them until standard input
/// ends.
///
/// # Errors
///
/// Not all of them could be opened, or a response is not what `--expect` says.
pub(crate) fn hold(options: &Options, count: usize) -> io::Result<()> {
    system::raise_descriptor_limit()?;
    let mut streams = Vec::with_capacity(count);
    for number in 1..=count {
        let stream = open(options).map_err(|error| {
            io::Error::new(error.kind(), format!("connection {number} of {count}: {error}"))
        })?;
        streams.push(stream);
    }
    let mut line = Line::new();
    line.add("connections", streams.len());
    println!("{line}");
    io::stdout().flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// A connection that has had a response.
fn open(options: &Options) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(options.host)?;
    let body = get(&mut stream, options.host, &options.path)?;
    if options.expect.as_ref().is_some_and(|expected| expected.as_bytes() != body) {
        return Err(io::Error::new(ErrorKind::InvalidData, "another body than expected"));
    }
    Ok(stream)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// A server that answers request `m` of connection `n` with `body(n, m)`, and says when a
    /// connection ends.
    pub(crate) fn serve(body: fn(usize, usize) -> String) -> (SocketAddr, mpsc::Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap();
        let (ended, ends) = mpsc::channel();
        spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (mut stream, ended) = (stream.unwrap(), ended.clone());
                spawn(move || {
                    let mut buffer = [0; 1024];
                    for request in 0.. {
                        if stream.read(&mut buffer).unwrap_or(0) == 0 {
                            break;
                        }
                        let body = body(number, request);
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
                        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
                    }
                    let _ = ended.send(number);
                });
            }
        });
        (host, ends)
    }

    fn spawn(run: impl FnOnce() + Send + 'static) {
        drop(thread::Builder::new().spawn(run).unwrap());
    }

    #[test]
    fn those_that_are_answered_the_same_are_chosen_and_the_others_stay_open() {
        let (host, ends) = serve(|number, _| format!("loop {}", number % 3));
        let mut found = find_alike(host, "/where", 4).unwrap();
        assert_eq!((found.chosen.len(), found.others.len()), (4, 6));
        for stream in &mut found.chosen {
            assert_eq!(get(stream, host, "/where").unwrap(), b"loop 0");
        }
        assert!(ends.try_recv().is_err(), "none was closed");
        drop(found.others);
        let ended: Vec<_> = (0..6).map(|_| ends.recv().unwrap() % 3).collect();
        assert!(!ended.contains(&0), "{ended:?}");
    }

    #[test]
    fn connections_that_live_nowhere_are_not_found() {
        let (host, _ends) = serve(|_, request| format!("loop {}", request % 2));
        let error = find_alike(host, "/where", 2).err().unwrap();
        assert!(error.to_string().contains("in several places"), "{error}");
        let (host, _ends) = serve(|number, _| format!("loop {number}"));
        let error = find_alike(host, "/where", 2).err().unwrap();
        assert!(error.to_string().contains("too few"), "{error}");
    }
}
