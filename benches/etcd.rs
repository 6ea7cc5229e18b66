//! Compare-and-swap on three nodes of etcd and on three of forebay's metadata. `scripts/bench-etcd`
//! starts the processes and runs both alternately.
//!
//! Each client has a key of its own and replaces its value again and again, under the condition
//! that the version is the last one. etcd is called over gRPC with one connection per up to
//! [`STREAMS`] clients; forebay from within one of its nodes, as an application calls it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::{
    error::Error,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay::cluster::{ClusterNode, ClusterNodeConfig, Expected, Metadata};
use h2::client::SendRequest;
use http::{Request, Version};
use tokio::net::TcpStream;

type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Clients that share a connection to etcd.
const STREAMS: usize = 64;
/// Results count only after this time.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long a call, or the start of the cluster, may take.
const WITHIN: Duration = Duration::from_secs(60);

/// How a run went.
struct Report {
    clients: usize,
    per_s: f64,
    p50: Duration,
    p99: Duration,
}

/// Runs clients, each with a function that makes the swap to the next version, and measures it.
async fn measure<F, Fut>(
    clients: usize,
    seconds: u64,
    mut client: impl FnMut(usize) -> F,
) -> Done<Report>
where
    F: FnMut(u64) -> Fut + Send + 'static,
    Fut: Future<Output = Done> + Send,
{
    let counts_from = Instant::now() + WARM_UP;
    let ends = counts_from + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..clients)
        .map(|at| {
            let mut swap = client(at);
            tokio::spawn(async move {
                let mut took = Vec::new();
                for version in 0.. {
                    let began = Instant::now();
                    swap(version).await?;
                    let ended = Instant::now();
                    if ended >= ends {
                        break;
                    }
                    if began >= counts_from {
                        took.push(ended - began);
                    }
                }
                Done::Ok(took)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await??);
    }
    all.sort_unstable();
    let at = |hundredths: usize| all[(all.len() * hundredths / 100).min(all.len() - 1)];
    if all.is_empty() {
        return Err("no call ended in time".into());
    }
    Ok(Report { clients, per_s: all.len() as f64 / seconds as f64, p50: at(50), p99: at(99) })
}

fn print(report: &Report) {
    println!(
        "{{\"clients\":{},\"per_s\":{:.1},\"p50_us\":{},\"p99_us\":{}}}",
        report.clients,
        report.per_s,
        report.p50.as_micros(),
        report.p99.as_micros()
    );
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// A field of bytes, in protobuf.
fn put_field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    out.put_u8(number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// etcd's `TxnRequest`: if the key has this version, put the value. In a frame of gRPC.
fn transaction(key: &[u8], version: u64, value: &[u8]) -> Bytes {
    let (mut compare, mut put, mut operation) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    // Result and target are 0: equal, version.
    put_field(&mut compare, 3, key);
    compare.put_u8(4 << 3);
    put_varint(&mut compare, version);
    put_field(&mut put, 1, key);
    put_field(&mut put, 2, value);
    put_field(&mut operation, 2, &put);
    let mut request = BytesMut::new();
    put_field(&mut request, 1, &compare);
    put_field(&mut request, 2, &operation);
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(request.len() as u32);
    frame.put_slice(&request);
    frame.freeze()
}

/// Whether a `TxnResponse` in a frame of gRPC says that it was done: its field 2.
fn succeeded(frame: &[u8]) -> bool {
    let mut at = 5;
    while at + 1 < frame.len() {
        let (tag, value) = (frame[at], frame[at + 1]);
        at += 2;
        match tag & 7 {
            0 if tag >> 3 == 2 => return value == 1,
            // A header or an operation, shorter than 128 bytes.
            2 if value < 0x80 => at += usize::from(value),
            _ => return false,
        }
    }
    false
}

async fn swap_etcd(connection: SendRequest<Bytes>, port: u16, frame: Bytes) -> Done {
    let uri = format!("http://127.0.0.1:{port}/etcdserverpb.KV/Txn");
    let request = Request::post(uri)
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut body) = connection.ready().await?.send_request(request, false)?;
    body.send_data(frame, true)?;
    let mut body = response.await?.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let status = trailers.get("grpc-status").map_or(&b""[..], |status| status.as_bytes());
    match status == b"0" && succeeded(&bytes) {
        true => Ok(()),
        false => Err(format!("etcd refused: {trailers:?} {bytes:?}").into()),
    }
}

async fn etcd(port: u16, clients: &[usize], value: usize, seconds: u64) -> Done {
    let value = vec![b'x'; value];
    for (shape, count) in clients.iter().enumerate() {
        let mut connections = Vec::new();
        for _ in 0..count.div_ceil(STREAMS) {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let (connection, driver) = h2::client::handshake(stream).await?;
            tokio::spawn(driver);
            connections.push(connection);
        }
        let client = |at: usize| {
            let (connection, value) = (connections[at / STREAMS].clone(), value.clone());
            move |version| {
                let key = format!("bench/{shape}/{at}");
                let frame = transaction(key.as_bytes(), version, &value);
                swap_etcd(connection.clone(), port, frame)
            }
        };
        print(&measure(*count, seconds, client).await?);
    }
    Ok(())
}

async fn swap_forebay(metadata: Metadata, key: String, version: u64, value: Bytes) -> Done {
    let expected = if version == 0 { Expected::Absent } else { Expected::Version(version) };
    let made = metadata.put(&key, value, expected, WITHIN).await?;
    if made == version + 1 { Ok(()) } else { Err(format!("version {made}").into()) }
}

/// Starts a node, and makes a cluster of it and its peers if it is to lead.
async fn start(
    dir: &str,
    name: &str,
    listen: &str,
    peers: &str,
    leads: bool,
) -> Done<Arc<ClusterNode>> {
    let peers = peers.split(',').filter_map(|peer| peer.split_once('='));
    let config = ClusterNodeConfig {
        name: name.to_owned(),
        data_dir: dir.into(),
        listen: listen.to_owned(),
        advertise: None,
        peers: peers.map(|(name, address)| (name.to_owned(), address.to_owned())).collect(),
        ..ClusterNodeConfig::default()
    };
    let node = Arc::new(ClusterNode::start(config).await?);
    if leads {
        node.provision(Vec::new()).await?;
    }
    let began = Instant::now();
    loop {
        let status = node.status().await;
        let leader = status.group.and_then(|group| group.leader);
        if status.is_healthy && (leader.as_deref() == Some(name)) == leads {
            return Ok(node);
        }
        if began.elapsed() > WITHIN {
            return Err(status.health.into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn forebay(node: &ClusterNode, clients: &[usize], value: usize, seconds: u64) -> Done {
    let value = Bytes::from(vec![b'x'; value]);
    for (shape, count) in clients.iter().enumerate() {
        let client = |at: usize| {
            let (metadata, value) = (node.metadata(), value.clone());
            move |version| {
                let key = format!("bench/{shape}/{at}");
                swap_forebay(metadata.clone(), key, version, value.clone())
            }
        };
        print(&measure(*count, seconds, client).await?);
    }
    Ok(())
}

fn numbers(text: &str) -> Done<Vec<usize>> {
    text.split(',').map(|number| Ok(number.parse()?)).collect()
}

#[tokio::main]
async fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["etcd", port, clients, value, seconds] => {
            etcd(port.parse()?, &numbers(clients)?, value.parse()?, seconds.parse()?).await
        }
        ["forebay", role, dir, name, listen, peers, clients, value, seconds] => {
            let node = start(dir, name, listen, peers, role == "leader").await?;
            forebay(&node, &numbers(clients)?, value.parse()?, seconds.parse()?).await?;
            Ok(node.shutdown().await?)
        }
        _ => {
            eprintln!(
                "usage: etcd PORT CLIENTS VALUE SECONDS\n       \
                 forebay leader|follower DIR NAME LISTEN PEERS CLIENTS VALUE SECONDS"
            );
            Err("wrong arguments".into())
        }
    }
}
