//! `forebay node` and `forebay cluster`.

mod asked;
mod metadata;
mod show;

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
        BundleError, ClusterError, ClusterNode, ClusterNodeConfig, NodeName, init_tls, recover,
    },
    control::{
        ControlError,
        cluster::{Answer, ClusterServer, Request},
    },
};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    args::{ClusterArgs, ClusterCommand, Global, NodeArgs},
    console::{EXIT_FAILURES, note, print},
};

use asked::Asked;

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
    note(&format!("node {} listens at {address}", args.name));
    let mut starting = pin!(Runtime::builder().cluster_node(&node).start());
    let mut runtime = None;
    let ended = loop {
        tokio::select! {
            biased;
            started = &mut starting, if runtime.is_none() => {
                let started = match started {
                    Ok(started) => started,
                    Err(error) => {
                        // The first error is the reason.
                        let _ = node.shutdown().await;
                        return Err(error.into());
                    }
                };
                server.attach(started.node());
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
    match &args.command {
        ClusterCommand::InitTls { dir, nodes, days } => make_bundles(dir, nodes, *days),
        ClusterCommand::Recover { name, accept_data_loss } => {
            let (dir, name) = (global.data_dir.clone(), name.clone());
            let accepts_loss = *accept_data_loss;
            let work = move || recover(&dir, &name, accepts_loss);
            let recovered = tokio::task::spawn_blocking(work).await;
            let recovery = recovered.map_err(|_| ClusterCommandError::Strange)??;
            Ok(print(show::recovery_text(&recovery, global.json)?.as_bytes())?)
        }
        command => {
            let asked = Asked::of(global, &command.at()).await?;
            let done = of_node(global, &asked, command).await;
            asked.close().await;
            done
        }
    }
}

/// Runs a command that asks a node.
async fn of_node(
    global: &Global,
    asked: &Asked,
    command: &ClusterCommand,
) -> Result<ExitCode, ClusterCommandError> {
    match command {
        ClusterCommand::Provision { absent, within, .. } => {
            provision(global, asked, absent.clone(), *within).await
        }
        ClusterCommand::Status { .. } => {
            let status = asked.status().await?;
            let text = if global.json { json(&status)? } else { show::status_text(&status) };
            print(text.as_bytes())?;
            Ok(if status.is_healthy { ExitCode::SUCCESS } else { EXIT_FAILURES.into() })
        }
        ClusterCommand::Nodes { .. } => {
            let status = asked.status().await?;
            let text = if global.json {
                status.nodes.iter().map(json).collect::<Result<String, _>>()?
            } else {
                show::nodes_text(&status)
            };
            Ok(print(text.as_bytes())?)
        }
        ClusterCommand::Remove { node, within, .. } => {
            let request = Request::Remove { node: node.clone(), within_ms: millis(*within) };
            done(asked, request, &format!("{node} was removed")).await
        }
        ClusterCommand::Transfer { of, node, within, .. } => {
            let (log, node, within_ms) = (of.clone(), node.clone(), millis(*within));
            let text = format!("{node} leads {log}");
            done(asked, Request::Transfer { log, node, within_ms }, &text).await
        }
        ClusterCommand::Drain { node, within, .. } => {
            let (node, within_ms) = (node.clone(), millis(*within));
            let text = format!("{node} leads nothing");
            done(asked, Request::Drain { node, on: true, within_ms }, &text).await
        }
        ClusterCommand::Undrain { node, within, .. } => {
            let (node, within_ms) = (node.clone(), millis(*within));
            let text = format!("{node} may lead");
            done(asked, Request::Drain { node, on: false, within_ms }, &text).await
        }
        ClusterCommand::Finalize { within, .. } => {
            let request = Request::Finalize { within_ms: millis(*within) };
            let Answer::Finalized { format } = asked.ask(request).await? else {
                return Err(ClusterCommandError::Strange);
            };
            let text = match global.json {
                true => format!("{{\"format\":{format}}}\n"),
                false => format!("the cluster has format {format}\n"),
            };
            Ok(print(text.as_bytes())?)
        }
        other => metadata::command(global, asked, other).await,
    }
}

/// A request that is answered by its success.
async fn done(
    asked: &Asked,
    request: Request,
    text: &str,
) -> Result<ExitCode, ClusterCommandError> {
    match asked.ask(request).await? {
        Answer::Done => Ok(print(format!("{text}\n").as_bytes())?),
        _ => Err(ClusterCommandError::Strange),
    }
}

fn make_bundles(dir: &Path, nodes: &[String], days: u32) -> Result<ExitCode, ClusterCommandError> {
    let parsed = nodes.iter().map(|node| node.parse::<NodeName>());
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(ClusterError::from)?;
    init_tls(dir, &parsed, days)?;
    let mut text = String::new();
    for node in parsed {
        let _ = writeln!(text, "{}", dir.join(node.as_str()).display());
    }
    note(&format!(
        "copy each directory to its node, and keep {} away from the nodes",
        dir.join("ca-key.pem").display()
    ));
    Ok(print(text.as_bytes())?)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn json(value: &impl serde::Serialize) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string(value)? + "\n")
}

async fn provision(
    global: &Global,
    asked: &Asked,
    absent: Vec<String>,
    within: Duration,
) -> Result<ExitCode, ClusterCommandError> {
    let is_alone = !absent.is_empty();
    let answer = asked.ask(Request::Provision { absent }).await?;
    let Answer::Provisioned { cluster } = answer else { return Err(ClusterCommandError::Strange) };
    note(&format!("cluster {cluster} is provisioned; its nodes become members"));
    let began = Instant::now();
    let last = loop {
        let status = asked.status().await?;
        // Peers that are absent cannot be waited for.
        if status.is_healthy || (is_alone && status.serves) || began.elapsed() >= within {
            break status;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let text = if global.json { json(&last)? } else { show::status_text(&last) };
    print(text.as_bytes())?;
    Ok(if last.serves { ExitCode::SUCCESS } else { EXIT_FAILURES.into() })
}
