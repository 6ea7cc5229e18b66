//! A network of proxies between the nodes: each direction between two nodes can be cut.
//!
//! Nothing gets through in a direction that is cut, and nothing is lost: bytes arrive when the cut
//! ends, if the connection lives that long. Neither end sees the cut from TCP, as behind a
//! middlebox that acknowledges: the nodes themselves must notice it. It works without privileges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// From a node to another one.
type Way = (usize, usize);
type Cuts = BTreeSet<Way>;

pub(super) struct Proxies {
    /// Where a node dials another one.
    addresses: BTreeMap<Way, String>,
    cuts: watch::Sender<Cuts>,
    /// Ends everything when it is dropped.
    _runtime: tokio::runtime::Runtime,
}

impl Proxies {
    /// A proxy for each ordered pair of these nodes.
    pub(super) fn new(nodes: &[String]) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let (cuts, cut) = watch::channel(Cuts::new());
        let mut addresses = BTreeMap::new();
        for from in 0..nodes.len() {
            for (to, target) in nodes.iter().enumerate().filter(|(to, _)| *to != from) {
                let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let listener = runtime.block_on(TcpListener::bind(any)).unwrap();
                addresses.insert((from, to), listener.local_addr().unwrap().to_string());
                runtime.spawn(accept(listener, target.clone(), (from, to), cut.clone()));
            }
        }
        Self { addresses, cuts, _runtime: runtime }
    }

    pub(super) fn address(&self, from: usize, to: usize) -> String {
        self.addresses[&(from, to)].clone()
    }

    pub(super) fn cut(&self, from: usize, to: usize) {
        self.cuts.send_modify(|cuts| {
            cuts.insert((from, to));
        });
    }

    /// Both directions.
    pub(super) fn part(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    pub(super) fn mend_all(&self) {
        self.cuts.send_modify(Cuts::clear);
    }
}

async fn accept(listener: TcpListener, target: String, way: Way, cuts: watch::Receiver<Cuts>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(forward(client, target.clone(), way, cuts.clone()));
    }
}

async fn forward(client: TcpStream, target: String, way: Way, mut cuts: watch::Receiver<Cuts>) {
    let back = (way.1, way.0);
    // No connection is made through a cut.
    let is_open = |cuts: &Cuts| !cuts.contains(&way) && !cuts.contains(&back);
    if cuts.wait_for(is_open).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(
        pump(from_client, to_server, way, cuts.clone()),
        pump(from_server, to_client, back, cuts)
    );
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    mut cuts: watch::Receiver<Cuts>,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if cuts.wait_for(|cuts| !cuts.contains(&way)).await.is_err() {
            return;
        }
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            // Dropping the half ends this direction.
            return;
        }
    }
}
