//! `forebay node` and `forebay cluster`.

use std::{
    fmt::Write as _,
    io,
    path::Path,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use forebay::{
    Drain, Runtime, RuntimeError,
    cluster::{
        BundleError, ClusterError, ClusterNode, ClusterNodeConfig, NodeName, Recovery, init_tls,
        recover,
    },
    control::{
        ControlError,
        cluster::{Answer, ClusterServer, ClusterView, KeyView, Request, ask},
    },
};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    args::{ClusterArgs, ClusterCommand, Global, NodeArgs},
    console::EXIT_FAILURES,
    show::{
        format::{finish, table},
        safe,
    },
};

/// Time for a running entry to end when the node is stopped.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks at the members.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a command of the cluster failed.
#[derive(Debug, Error)]
pub(super) enum ClusterCommandError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("{0}")]
    Refused(String),
    #[error("the node answered something unknown (another version of forebay?)")]
    Strange,
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// Runs a node until a signal ends it.
pub(super) async fn node(
    global: &Global,
    args: &NodeArgs,
) -> Result<ExitCode, ClusterCommandError> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let config = ClusterNodeConfig {
        name: args.name.clone(),
        data_dir: global.data_dir.clone(),
        listen: args.listen.clone(),
        advertise: args.advertise.clone(),
        peers: args.peers.clone(),
        tls: args.tls.clone(),
        partitions: args.partitions,
        dead_after: args.dead_after,
        ..ClusterNodeConfig::default()
    };
    let node = Arc::new(ClusterNode::start(config).await?);
    let server = ClusterServer::start(&node)?;
    let address = node.address().unwrap_or_else(|| args.listen.clone());
    super::console::note(&format!("node {} listens at {address}", args.name));
    let mut starting = pin!(Runtime::builder().cluster_node(&node).start());
    let mut runtime = None;
    let ended = loop {
        tokio::select! {
            biased;
            started = &mut starting, if runtime.is_none() => {
                let started = started?;
                server.attach(&started);
                runtime = Some(started);
            }
            ended = node.ended() => break ended,
            _ = terminated.recv() => break Ok(()),
            _ = interrupted.recv() => break Ok(()),
        }
    };
    drop(server);
    if let Some(runtime) = runtime {
        runtime.shutdown(Drain::within(END_WITHIN)).await?;
    }
    ended?;
    node.shutdown().await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a command of the cluster.
pub(super) async fn cluster(
    global: &Global,
    args: &ClusterArgs,
) -> Result<ExitCode, ClusterCommandError> {
    let dir = &global.data_dir;
    match &args.command {
        ClusterCommand::InitTls { dir, nodes, days } => make_bundles(dir, nodes, *days),
        ClusterCommand::Recover { name, accept_data_loss } => {
            let (dir, name) = (dir.clone(), name.clone());
            let accepts_loss = *accept_data_loss;
            let work = move || recover(&dir, &name, accepts_loss);
            let recovered = tokio::task::spawn_blocking(work).await;
            let recovery = recovered.map_err(|_| ClusterCommandError::Strange)??;
            Ok(super::console::print(recovery_text(&recovery, global.json)?.as_bytes())?)
        }
        ClusterCommand::Provision { absent, within } => {
            provision(global, absent.clone(), *within).await
        }
        ClusterCommand::Status => {
            let status = status(dir).await?;
            let text = if global.json { json(&status)? } else { status_text(&status) };
            super::console::print(text.as_bytes())?;
            Ok(if status.is_healthy { ExitCode::SUCCESS } else { EXIT_FAILURES.into() })
        }
        ClusterCommand::Nodes => {
            let status = status(dir).await?;
            let text = if global.json {
                status.nodes.iter().map(json).collect::<Result<String, _>>()?
            } else {
                nodes_text(&status)
            };
            Ok(super::console::print(text.as_bytes())?)
        }
        ClusterCommand::Remove { node, within } => {
            let request = Request::Remove { node: node.clone(), within_ms: millis(*within) };
            match request_of(dir, request).await? {
                Answer::Done => {
                    Ok(super::console::print(format!("{node} was removed\n").as_bytes())?)
                }
                _ => Err(ClusterCommandError::Strange),
            }
        }
        other => metadata(global, other).await,
    }
}

/// `get`, `keys` and `put`.
async fn metadata(
    global: &Global,
    command: &ClusterCommand,
) -> Result<ExitCode, ClusterCommandError> {
    let dir = &global.data_dir;
    match command {
        ClusterCommand::Get { key, within } => {
            let request = Request::Get { key: key.clone(), within_ms: millis(*within) };
            let Answer::Key { key: found } = request_of(dir, request).await? else {
                return Err(ClusterCommandError::Strange);
            };
            let has_value = found.as_ref().is_some_and(|found| found.bytes.is_some());
            let text = match (&found, global.json) {
                (Some(found), true) => json(found)?,
                (Some(found), false) if has_value => value_text(found),
                _ => String::new(),
            };
            super::console::print(text.as_bytes())?;
            Ok(if has_value { ExitCode::SUCCESS } else { EXIT_FAILURES.into() })
        }
        ClusterCommand::Keys { prefix, within } => keys(global, prefix, millis(*within)).await,
        ClusterCommand::Put { key, value, if_version, within } => {
            let (key, value, if_version) = (key.clone(), value.clone(), *if_version);
            let request = Request::Put { key, value, if_version, within_ms: millis(*within) };
            let Answer::Written { version } = request_of(dir, request).await? else {
                return Err(ClusterCommandError::Strange);
            };
            let text = match global.json {
                true => format!("{{\"version\":{version}}}\n"),
                false => format!("version {version}\n"),
            };
            Ok(super::console::print(text.as_bytes())?)
        }
        _ => Err(ClusterCommandError::Strange),
    }
}

async fn keys(
    global: &Global,
    prefix: &str,
    within_ms: u64,
) -> Result<ExitCode, ClusterCommandError> {
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let request = Request::List { prefix: prefix.to_owned(), after, within_ms };
        let Answer::Keys { keys, more } = request_of(&global.data_dir, request).await? else {
            return Err(ClusterCommandError::Strange);
        };
        all.extend(keys);
        after = all.last().map(|last| last.key.clone()).filter(|_| more);
        if after.is_none() {
            break;
        }
    }
    let text = if global.json {
        all.iter().map(json).collect::<Result<String, _>>()?
    } else {
        let mut table = table(&["KEY", "VERSION", "BYTES"]);
        for key in &all {
            let bytes = key.bytes.unwrap_or_default().to_string();
            table.add_row([key.key.clone(), key.version.to_string(), bytes]);
        }
        finish(&table, all.len(), "keys")
    };
    Ok(super::console::print(text.as_bytes())?)
}

fn make_bundles(dir: &Path, nodes: &[String], days: u32) -> Result<ExitCode, ClusterCommandError> {
    let parsed = nodes.iter().map(|node| node.parse::<NodeName>());
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(ClusterError::from)?;
    init_tls(dir, &parsed, days)?;
    let mut text = String::new();
    for node in parsed {
        let _ = writeln!(text, "{}", dir.join(node.as_str()).display());
    }
    super::console::note(&format!(
        "copy each directory to its node, and keep {} away from the nodes",
        dir.join("ca-key.pem").display()
    ));
    Ok(super::console::print(text.as_bytes())?)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn json(value: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string(value)? + "\n")
}

/// Asks the node; its refusal is an error.
async fn request_of(dir: &Path, request: Request) -> Result<Answer, ClusterCommandError> {
    match ask(dir, &request).await? {
        Answer::Error { message, .. } => Err(ClusterCommandError::Refused(message)),
        answer => Ok(answer),
    }
}

async fn status(dir: &Path) -> Result<Box<ClusterView>, ClusterCommandError> {
    match request_of(dir, Request::Status).await? {
        Answer::ClusterStatus { status } => Ok(status),
        _ => Err(ClusterCommandError::Strange),
    }
}

async fn provision(
    global: &Global,
    absent: Vec<String>,
    within: Duration,
) -> Result<ExitCode, ClusterCommandError> {
    let dir = &global.data_dir;
    let is_alone = !absent.is_empty();
    let answer = request_of(dir, Request::Provision { absent }).await?;
    let Answer::Provisioned { cluster } = answer else { return Err(ClusterCommandError::Strange) };
    super::console::note(&format!("cluster {cluster} is provisioned; its nodes become members"));
    let began = Instant::now();
    let last = loop {
        let status = status(dir).await?;
        // Peers that are absent cannot be waited for.
        if status.is_healthy || (is_alone && status.serves) || began.elapsed() >= within {
            break status;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let text = if global.json { json(&last)? } else { status_text(&last) };
    super::console::print(text.as_bytes())?;
    Ok(if last.serves { ExitCode::SUCCESS } else { EXIT_FAILURES.into() })
}

fn value_text(found: &KeyView) -> String {
    match &found.value {
        Some(value) => format!("{value}\n"),
        None => format!("({} bytes that are not text)\n", found.bytes.unwrap_or_default()),
    }
}

/// The health in words, then the group, then the nodes.
fn status_text(status: &ClusterView) -> String {
    let mut text = format!("{}\n", safe(&status.health));
    let address = status.address.as_deref().unwrap_or("-");
    let _ = writeln!(
        text,
        "node {}: {}, at {address}, storage {}, start {}",
        status.node, status.state, status.storage, status.boot
    );
    if let (Some(cluster), Some(incarnation)) = (&status.cluster, status.incarnation) {
        let _ = writeln!(text, "cluster {cluster}, incarnation {incarnation}");
    }
    if let Some(group) = &status.group {
        let leader = group.leader.as_deref().unwrap_or("no node");
        let _ = writeln!(
            text,
            "metadata: {}, {leader} leads, segment {} from {}, decided {}, applied {}, accepted \
             {}, durable {}, {} bytes of log, {} bytes of metadata, {} leaders seen",
            group.role,
            group.segment,
            group.base,
            group.decided,
            group.applied,
            group.accepted,
            group.durable,
            group.log_bytes,
            group.state_bytes,
            group.leaders_seen
        );
        if let Some(why) = &group.yielded {
            let _ = writeln!(text, "this node gave its leadership up: {why}");
        }
    }
    for refused in &status.refused {
        let _ = writeln!(text, "refused: {}: {}", safe(&refused.who), safe(&refused.why));
    }
    if let Some(days) = status.certificate_days.filter(|days| *days <= 30) {
        let _ = writeln!(text, "the certificate ends in {days} days: renew it");
    }
    if !status.nodes.is_empty() {
        text.push('\n');
        text.push_str(&nodes_text(status));
    }
    text
}

fn nodes_text(status: &ClusterView) -> String {
    let mut table = table(&["NODE", "STATE", "CONNECTED", "LAG", "ADDRESS", "STORAGE"]);
    for node in &status.nodes {
        let connected = if node.is_connected { "yes" } else { "no" };
        let lag = node.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { safe(text) };
        table.add_row([
            node.name.clone(),
            node.state.to_string(),
            connected.to_owned(),
            lag,
            or_dash(&node.address),
            or_dash(&node.storage),
        ]);
    }
    let mut text = finish(&table, status.nodes.len(), "nodes");
    for node in &status.nodes {
        if let Some(error) = &node.error {
            let _ = writeln!(text, "{} is not reached: {}", node.name, safe(error));
        }
    }
    text
}

fn recovery_text(recovery: &Recovery, as_json: bool) -> Result<String, serde_json::Error> {
    let (number, priority, pid) = recovery.round;
    if as_json {
        return json(&serde_json::json!({
            "cluster": format!("{:032x}", recovery.cluster),
            "incarnation": recovery.incarnation,
            "segment": recovery.segment,
            "round": [number, u64::from(priority), pid],
            "accepted": recovery.accepted,
            "decided": recovery.decided,
            "members": recovery.members,
            "is_done": recovery.is_done,
        }));
    }
    let mut text = format!(
        "cluster {:032x}, incarnation {}\nsegment {}, round {number}.{priority}.{pid}, accepted \
         {}, decided {}, members {}\n",
        recovery.cluster,
        recovery.incarnation,
        recovery.segment,
        recovery.accepted,
        recovery.decided,
        recovery.members.join(", ")
    );
    text.push_str(if recovery.is_done {
        "this node continues alone: start it; the others join with empty data directories\n"
    } else {
        "nothing was changed: compare this on all nodes that are left, take the greatest segment, \
         then round, then accepted, and repeat this there with --accept-data-loss\n"
    });
    Ok(text)
}
