//! A runtime with handlers over HTTP: requests, answers, and what they mean.

mod actions;
mod enqueue;
mod events;
mod rules;
mod tokens;
mod workers;

use std::net::TcpListener;

use forebay::{
    Context, Drain, HandlerError, Json, Runtime,
    control::TokenRole,
    http::{HttpOptions, LocalToken, ServeOptions, router, serve, token_hash},
};

use crate::http_client::Client;

/// The token of the tests.
const TOKEN: &str = "fbt_test";

/// A runtime behind a server, on a tokio runtime of its own.
struct Served {
    client: Client,
    runtime: Runtime,
    tokio: tokio::runtime::Runtime,
    end: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Served {
    fn new() -> Self {
        Self::with(HttpOptions::default())
    }

    fn with(mut options: HttpOptions) -> Self {
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let tokio = tokio.unwrap();
        let runtime = tokio.block_on(start());
        options.local_tokens = vec![LocalToken { role: TokenRole::Admin, hash: token_hash(TOKEN) }];
        let routes = tokio.block_on(router(&runtime, options)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = tokio::sync::oneshot::channel();
        tokio.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let end = async { drop(ended.await) };
            serve(listener, routes, ServeOptions::default(), end).await;
        });
        let client = Client { address, token: Some(TOKEN.to_owned()) };
        Self { client, runtime, tokio, end: Some(end) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.end.take());
        let down = self.tokio.block_on(self.runtime.shutdown(Drain::now()));
        if !std::thread::panicking() {
            down.unwrap();
        }
    }
}

async fn start() -> Runtime {
    let fails =
        |_: Context, (): ()| async { Err::<(), _>(HandlerError::terminal("it cannot be done")) };
    let builder = Runtime::builder()
        .in_memory()
        .partitions(2)
        .handler(
            "double",
            |_: Context, Json(number): Json<u64>| async move { Ok(Json(number * 2)) },
        )
        .handler("echo", |_: Context, bytes: bytes::Bytes| async move { Ok(bytes) })
        .handler("fail", fails)
        .handler("hang", |_: Context, (): ()| async {
            std::future::pending::<()>().await;
            Ok(())
        })
        .handler("approve", |context: Context, (): ()| async move {
            let approved: bool = context.promise("approved").await?;
            Ok(Json(approved))
        });
    builder.start().await.unwrap()
}
