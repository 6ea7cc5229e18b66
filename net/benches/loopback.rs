//! Messages per second of one link over loopback with TLS: 256 bytes and 64 KiB, everything on one
//! thread. For comparison, the same bytes over a bare TCP connection in the same process.
//!
//! `cargo bench -p forebay-net --all-features`; `-- --seconds 5` for longer runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_net::{
    Answer, Config, Event, Group, Identity, Limits, Net, NodeName, Service, TlsFiles, init_tls,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes in flight, as for the leader of a group.
const WINDOW_BYTES: usize = 4 << 20;
const WINDOW_MESSAGES: usize = 4096;

struct Deaf;

impl Service for Deaf {
    fn request(&self, _peer: Arc<Identity>, body: Bytes) -> Answer {
        Box::pin(async move { Ok(body) })
    }

    fn read(&self, _peer: Arc<Identity>, _source: Bytes, _offset: u64, _max: usize) -> Answer {
        Box::pin(async { Ok(Bytes::new()) })
    }
}

fn name(text: &str) -> NodeName {
    text.parse().expect("it is a node name")
}

async fn start(node: &str, tls: Option<TlsFiles>) -> Net {
    let identity = Identity {
        cluster: 1,
        name: name(node),
        storage: node.len() as u128 + u128::from(node.as_bytes()[0]),
        boot: 1,
        nonce: 1,
        address: None,
    };
    let listen = Some("127.0.0.1:0".to_owned());
    let (limits, service) = (Limits::default(), Arc::new(Deaf));
    let config = Config { identity, listen, tls, limits, service, seed: Some(1) };
    Net::start(config).await.expect("it starts")
}

async fn session(group: &Group) -> u64 {
    loop {
        if let Event::Connected { session, .. } = group.next().await {
            return session;
        }
    }
}

struct Measured {
    messages: u64,
    seconds: f64,
    cpu_seconds: f64,
}

/// Processor time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|one| one.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(12) + ticks(13)) / 100.0
}

async fn link(tls: bool, len: usize, seconds: f64) -> Measured {
    let directory = tempfile::tempdir().expect("a directory");
    let nodes = [name("a"), name("b")];
    init_tls(directory.path(), &nodes, 30).expect("certificates");
    let files = |node: &str| tls.then(|| TlsFiles::in_directory(&directory.path().join(node)));
    let (a, b) = (start("a", files("a")).await, start("b", files("b")).await);
    for (one, other) in [(&a, &b), (&b, &a)] {
        let address = other.identity().address.as_deref();
        one.add_peer(&other.identity().name, address).expect("another name");
    }
    let (from, to) = (a.group(1).expect("a group"), b.group(1).expect("a group"));
    from.add_peer(&nodes[1]).expect("a peer");
    to.add_peer(&nodes[0]).expect("a peer");
    let at = session(&from).await;
    session(&to).await;

    let body = Bytes::from(vec![7; len]);
    let window = (WINDOW_BYTES / len).min(WINDOW_MESSAGES) as u64;
    let (mut sent, mut received) = (0, 0);
    let (began, cpu) = (Instant::now(), cpu_seconds());
    while began.elapsed().as_secs_f64() < seconds {
        while sent < received + window {
            from.send(&nodes[1], at, body.clone()).expect("the window is below the limit");
            sent += 1;
        }
        let mut event = Some(to.next().await);
        while let Some(one) = event {
            received += u64::from(matches!(one, Event::Message { .. }));
            event = to.try_next();
        }
    }
    let measured = Measured {
        messages: received,
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds() - cpu,
    };
    a.stop().await;
    b.stop().await;
    measured
}

/// The same bytes over TCP without TLS or frames.
async fn floor(len: usize, seconds: f64) -> Measured {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut out = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (mut into, _) = listener.accept().await.expect("a connection");
    let block = vec![7; 128 << 10];
    let sender = tokio::spawn(async move { while out.write_all(&block).await.is_ok() {} });
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    let (began, cpu) = (Instant::now(), cpu_seconds());
    while began.elapsed().as_secs_f64() < seconds {
        bytes += into.read(&mut buffer).await.expect("bytes");
    }
    let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    sender.abort();
    Measured { messages: (bytes / len) as u64, seconds, cpu_seconds }
}

#[expect(clippy::print_stdout, reason = "it is what the bench is for")]
fn main() {
    let mut arguments = std::env::args().skip_while(|one| one != "--seconds").skip(1);
    let seconds = arguments.next().and_then(|one| one.parse().ok()).unwrap_or(2.0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread");
    println!("{:24} {:>12} {:>10} {:>14}", "", "messages/s", "MiB/s", "CPU/message");
    for (text, len) in [("256 bytes", 256), ("64 KiB", 64 << 10)] {
        for (way, kind) in [("TLS", 0), ("no TLS", 1), ("TCP alone", 2)] {
            let measured = match kind {
                2 => runtime.block_on(floor(len, seconds)),
                kind => runtime.block_on(link(kind == 0, len, seconds)),
            };
            let rate = measured.messages as f64 / measured.seconds;
            let cpu =
                Duration::from_secs_f64(measured.cpu_seconds / measured.messages.max(1) as f64);
            let mebibytes = rate * len as f64 / f64::from(1 << 20);
            println!("{:24} {rate:>12.0} {mebibytes:>10.0} {cpu:>14.2?}", format!("{text}, {way}"));
        }
    }
}
