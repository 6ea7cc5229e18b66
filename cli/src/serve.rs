//! `forebay serve`.
//!
//! Must always hold: beyond loopback every request needs a token; the address that is printed
//! works. Must not know: requests.

use std::{io, net::SocketAddr, process::ExitCode, time::Duration};

use forebay::{
    Drain, NodeError, Runtime, RuntimeError,
    control::TokenRole,
    http::{
        HttpOptions, LocalToken, ServeOptions, drain_workers, router, serve, token_hash, token_text,
    },
};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::{
    args::{Global, ServeArgs},
    console::note,
};

/// Maximum time for leases to end, and of the shutdown after that.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the server does not run.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error(
        "--no-auth with {0}: beyond loopback every request needs a token; leave out --no-auth, and \
         make tokens with `forebay token create`"
    )]
    NoAuth(SocketAddr),
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the operating system has no random bytes")]
    Random,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves until a signal ends it.
///
/// # Errors
/// [`ServeError`]
pub(crate) async fn run(global: &Global, args: &ServeArgs) -> Result<ExitCode, ServeError> {
    let is_local = args.listen.ip().is_loopback();
    if args.no_auth && !is_local {
        return Err(ServeError::NoAuth(args.listen));
    }
    raise_descriptors();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(args.listen).await;
    let address = args.listen;
    let listener = listener.map_err(|source| ServeError::Listen { address, source })?;
    let mut builder = Runtime::builder().data_dir(&global.data_dir);
    if let Some(count) = args.partitions {
        builder = builder.partitions(count);
    }
    let runtime = builder.start().await?;
    let mut options = HttpOptions::default();
    options.needs_token = !args.no_auth;
    options.hosts.clone_from(&args.hosts);
    options.lease = args.lease;
    let mut url = format!("http://{}/", listener.local_addr()?);
    // Beyond loopback the output may be in a log that others read: tokens are made there.
    if is_local && !args.no_auth {
        let text = token_text(&random()?);
        options.local_tokens = vec![LocalToken { role: TokenRole::Admin, hash: token_hash(&text) }];
        url = format!("{url}#token={text}");
    }
    let routes = router(&runtime, options).await?;
    note(&format!("listening on {url}"));
    let mut limits = ServeOptions::default();
    limits.connections_max = args.connections as usize;
    let mut signals = async || {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    let end = async {
        signals().await;
        // Workers report their ends meanwhile; a second signal ends it at once.
        tokio::select! {
            () = drain_workers(&runtime, DRAIN) => {}
            () = signals() => {}
        }
    };
    serve(listener, routes, limits, end).await;
    runtime.shutdown(Drain::within(DRAIN)).await?;
    Ok(ExitCode::SUCCESS)
}

/// Raises the number of open files to what the system allows: each connection is one. Without it,
/// further connections wait to be accepted.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the number of open files stays as it was");
    }
}

/// Random bytes for a token.
pub(crate) fn random() -> Result<[u8; 32], ServeError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| ServeError::Random)?;
    Ok(bytes)
}
