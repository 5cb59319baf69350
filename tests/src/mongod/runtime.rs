//! The runtime that every client of the harness lives on: a client's connections belong to the
//! runtime that made it, and a test's own may end while a server is still being asked.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("mongod-clients")
            .enable_all()
            .build()
            .expect("a runtime needs threads, and these are there")
    })
}

/// Runs a future to its end on that runtime; may be called from anywhere, another runtime's thread
/// included.
pub fn blocking<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(|| runtime().block_on(future)).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A client that lives on that runtime and gives up on a server that is away after five seconds.
pub(super) fn client(url: &str) -> Result<::mongodb::Client> {
    blocking(async {
        let mut options = ::mongodb::options::ClientOptions::parse(url).await?;
        options.server_selection_timeout = Some(std::time::Duration::from_secs(5));
        options.connect_timeout = Some(std::time::Duration::from_secs(5));
        ::mongodb::Client::with_options(options)
    })
    .with_context(|| "cannot make a client of mongod")
}
