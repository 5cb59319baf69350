//! The line that `wal-fetch` and a running restore speak over a unix socket: a name in one line,
//! an answer in one line (`file`, `absent`, or `doubt` and why).

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Owner, Request};
use crate::fetch::{FetchError, SOCKET_FILE};

/// Names are 24 characters; a longer line is no request of ours.
const LINE_MAX: u64 = 256;
/// The store is asked for about a minute and a half before a request is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// Listens in the work folder. A socket's address holds at most 107 bytes (unix(7)) and a data
/// folder's path may be longer, so that the folder is named by its descriptor.
pub(super) fn listen(work: &Path, owner: Option<Owner>) -> Result<UnixListener, FetchError> {
    let path = work.join(SOCKET_FILE);
    let failed = |e| FetchError::io("listening on", &path)(e);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let folder = std::fs::File::open(work).map_err(failed)?;
    let short = format!("/proc/self/fd/{}/{SOCKET_FILE}", folder.as_raw_fd());
    let listener = UnixListener::bind(short).map_err(failed)?;
    if let Some(owner) = owner {
        std::os::unix::fs::chown(&path, Some(owner.uid), Some(owner.gid)).map_err(failed)?;
    }
    Ok(listener)
}

/// Takes connections until the requests are no longer wanted.
pub(super) async fn answer(listener: UnixListener, requests: mpsc::Sender<Request>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a request for log could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let requests = requests.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, requests).await {
                tracing::debug!(%error, "a request for log ended early");
            }
        });
    }
}

async fn converse(
    stream: tokio::net::UnixStream,
    requests: mpsc::Sender<Request>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(read.take(LINE_MAX)).read_line(&mut line).await?;
    let (reply, answer) = oneshot::channel();
    let request = Request { name: line.trim_end().to_owned(), reply };
    let ended = || io::Error::from(io::ErrorKind::BrokenPipe);
    requests.send(request).await.map_err(|_| ended())?;
    let text = match answer.await.map_err(|_| ended())? {
        Answer::File => "file\n".to_owned(),
        Answer::Absent => "absent\n".to_owned(),
        Answer::Doubt(why) => format!("doubt {}\n", why.replace('\n', " ")),
    };
    write.write_all(text.as_bytes()).await
}

/// Asks the prefetcher of the restore that works in `work`. `Ok(None)` when there is none; blocks.
///
/// # Errors
/// When it is there and does not answer.
pub fn ask(work: &Path, name: &str) -> io::Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(work.join(SOCKET_FILE)) {
        Ok(stream) => stream,
        Err(e)
            if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = String::new();
    let spoken = stream
        .write_all(format!("{name}\n").as_bytes())
        .and_then(|()| BufReader::new(&stream).read_line(&mut line));
    match spoken {
        // It ended before it answered.
        Ok(0) => return Ok(None),
        Err(e)
            if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e),
        Ok(_) => {}
    }
    let line = line.trim_end();
    match line.split_once(' ').unwrap_or((line, "")) {
        ("file", _) => Ok(Some(Answer::File)),
        ("absent", _) => Ok(Some(Answer::Absent)),
        ("doubt", why) => Ok(Some(Answer::Doubt(why.to_owned()))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("answer {line:?}"))),
    }
}
