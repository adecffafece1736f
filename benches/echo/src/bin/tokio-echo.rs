//! A TCP echo server of tokio: `tokio-echo [THREADS]`; without a number, or 0, on the main thread.
//!
//! Prints its port as one line of JSON and ends when standard input, a pipe, does.

use std::env;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

const READ_SIZE: usize = 65536;

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; READ_SIZE].into_boxed_slice();
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

async fn accept(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // A connection that fails is the peer's affair, and closed as any other.
        drop(tokio::spawn(async move { drop(echo(stream).await) }));
    }
}

async fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let mut parent = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let accepting = tokio::spawn(accept(listener));
    println!("{{\"port\": {port}}}");
    let mut buffer = [0; 64];
    tokio::select! {
        accepted = accepting => accepted?,
        read = async {
            while parent.read(&mut buffer).await? != 0 {}
            Ok(())
        } => read,
    }
}

fn main() -> io::Result<()> {
    let threads = env::args().nth(1).map_or(Ok(0), |text| text.parse());
    let threads: usize =
        threads.map_err(|error| io::Error::other(format!("the number of threads: {error}")))?;
    let mut builder = match threads {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_io().build()?.block_on(serve())
}
