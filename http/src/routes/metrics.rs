//! Metrics, in the text format of Prometheus.
//!
//! Must always hold: labels are bounded (the services with most entries, and `other`).

use std::{fmt, sync::Arc};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response as HttpResponse},
};
use forebay_api::{LimitView, MetricsView, PartitionMetrics, ReplicaRole, ServiceCounts};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _, prometheus_text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    auth::Reader,
    problem::{Code, Problem},
    state::Server,
};

/// Media type of the answer.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Maximum number of services with labels of their own.
const SERVICES_MAX: usize = 100;

/// Numbers for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "views",
    responses((status = 200, description = "The text format of Prometheus", body = String,
        content_type = "text/plain"))
)]
pub(super) async fn metrics(
    _: Reader,
    State(server): State<Arc<Server>>,
) -> Result<HttpResponse, Problem> {
    let view = server.scrape.read(&*server.backend).await?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collector(view)));
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| Problem::new(Code::Bug, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response())
}

#[derive(Debug)]
struct Collector(Arc<MetricsView>);

/// The value of a metric, with its labels.
type Value = (Vec<(&'static str, String)>, u64);

/// Writes a metric with its values.
fn write(
    encoder: &mut DescriptorEncoder<'_>,
    (kind, name, help): (MetricType, &str, &str),
    values: impl IntoIterator<Item = Value>,
) -> fmt::Result {
    let is_counter = matches!(kind, MetricType::Counter);
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        let labels = labels.as_slice();
        let one = match labels.is_empty() {
            true => None,
            false => Some(metric.encode_family(&labels)?),
        };
        // A value without labels is encoded by the metric itself, and is its only one.
        match (one, is_counter) {
            (Some(one), true) => ConstCounter::new(value).encode(one)?,
            (Some(one), false) => gauge(value).encode(one)?,
            (None, true) => return ConstCounter::new(value).encode(metric),
            (None, false) => return gauge(value).encode(metric),
        }
    }
    Ok(())
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

fn one(value: u64) -> [Value; 1] {
    [(Vec::new(), value)]
}

/// The services with most entries, and the sum of the others as `other`.
fn services(all: &[ServiceCounts]) -> Vec<ServiceCounts> {
    let mut all = all.to_vec();
    all.sort_by(|a, b| {
        (b.unfinished(), b.finished, &a.service).cmp(&(a.unfinished(), a.finished, &b.service))
    });
    let rest = all.split_off(all.len().min(SERVICES_MAX));
    if !rest.is_empty() {
        let mut other = ServiceCounts { service: "other".to_owned(), ..Default::default() };
        for counts in rest {
            other.inbox += counts.inbox;
            other.running += counts.running;
            other.parked += counts.parked;
            other.finished += counts.finished;
        }
        all.push(other);
    }
    all
}

impl Collector {
    /// A number of each partition.
    fn of_partitions(&self, number: impl Fn(&PartitionMetrics) -> u64) -> Vec<Value> {
        let value = |one: &PartitionMetrics| (vec![("partition", one.id.to_string())], number(one));
        self.0.partitions.iter().map(value).collect()
    }

    fn work(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counter = MetricType::Counter;
        let help = "Entries stored while this process led their partition";
        let values = self.of_partitions(|one| one.counts.enqueued);
        write(encoder, (counter, "forebay_entries_enqueued", help), values)?;
        let help = "Attempts started";
        let values = self.of_partitions(|one| one.counts.started);
        write(encoder, (counter, "forebay_attempts_started", help), values)?;
        let ended = |outcome: &str, number: fn(&PartitionMetrics) -> u64| -> Vec<Value> {
            let mut values = self.of_partitions(number);
            for (labels, _) in &mut values {
                labels.push(("outcome", outcome.to_owned()));
            }
            values
        };
        let values = [
            ended("success", |one| one.counts.succeeded),
            ended("failed", |one| one.counts.failed),
            ended("dead letter", |one| one.counts.dead_letters),
            ended("canceled", |one| one.counts.canceled),
            ended("killed", |one| one.counts.killed),
        ];
        let help = "Entries ended, by outcome";
        write(encoder, (counter, "forebay_entries_ended", help), values.concat())
    }

    fn entries(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut values = Vec::new();
        for counts in services(&self.0.services) {
            let stages = [
                ("inbox", counts.inbox),
                ("running", counts.running),
                ("parked", counts.parked),
                ("finished", counts.finished),
            ];
            for (stage, count) in stages {
                let labels = vec![("service", counts.service.clone()), ("stage", stage.to_owned())];
                values.push((labels, count));
            }
        }
        let help = "Stored entries, by service and stage";
        write(encoder, (MetricType::Gauge, "forebay_entries", help), values)?;
        let help = "Entries that wait for a service without a handler";
        let unserved = self.0.unserved.iter().map(|one| one.entries).sum();
        write(encoder, (MetricType::Gauge, "forebay_entries_unserved", help), one(unserved))
    }

    fn limits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = MetricType::Gauge;
        let help = "Handlers that run in this process";
        write(encoder, (gauge, "forebay_running", help), one(self.0.running))?;
        if let Some(most) = self.0.running_max {
            let help = "Maximum number of handlers that run in this process";
            write(encoder, (gauge, "forebay_running_max", help), one(most.into()))?;
        }
        let waiters = self.0.limits.iter().map(|one| u64::from(one.waiters)).sum();
        let help = "Queues that wait for a limit";
        write(encoder, (gauge, "forebay_queues_held_by_limits", help), one(waiters))?;
        let full = |one: &&LimitView| one.limit.is_some_and(|limit| one.usage >= limit);
        let full = self.0.limits.iter().filter(full).count() as u64;
        let help = "Counters of limits that are used up";
        write(encoder, (gauge, "forebay_limits_used_up", help), one(full))
    }

    fn partitions(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = MetricType::Gauge;
        let is = |role| move |one: &PartitionMetrics| u64::from(one.role == role);
        let help = "1 if this process leads the partition";
        let values = self.of_partitions(is(ReplicaRole::Leader));
        write(encoder, (gauge, "forebay_partition_leads", help), values)?;
        let help = "1 if the partition has stopped after an error";
        let values = self.of_partitions(is(ReplicaRole::Stopped));
        write(encoder, (gauge, "forebay_partition_stopped", help), values)?;
        let help = "Records of the log that are not applied yet";
        let values = self.of_partitions(|one| one.log_end.saturating_sub(one.applied));
        write(encoder, (gauge, "forebay_partition_lag_records", help), values)?;
        let help = "Queues in memory";
        let values = self.of_partitions(|one| one.active_vqueues);
        write(encoder, (gauge, "forebay_partition_active_queues", help), values)?;
        let help = "How far the partition's time is ahead of this machine's clock";
        let values = self.of_partitions(|one| one.ahead_ms);
        write(encoder, (gauge, "forebay_partition_clock_ahead_milliseconds", help), values)
    }

    fn log(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counter = MetricType::Counter;
        let log = self.0.log;
        let help = "Records written to the log";
        write(encoder, (counter, "forebay_log_records", help), one(log.records))?;
        let help = "Writes of the log that waited for the disk";
        write(encoder, (counter, "forebay_log_syncs", help), one(log.syncs))?;
        let help = "Bytes of records written to the log";
        write(encoder, (counter, "forebay_log_bytes", help), one(log.bytes))
    }
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.work(&mut encoder)?;
        self.entries(&mut encoder)?;
        self.limits(&mut encoder)?;
        self.partitions(&mut encoder)?;
        self.log(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_beyond_the_maximum_are_added_up() {
        let one = |number: usize| ServiceCounts {
            service: format!("s{number}"),
            inbox: number as u64,
            ..ServiceCounts::default()
        };
        let all: Vec<_> = (0..SERVICES_MAX + 3).map(one).collect();
        let shown = services(&all);
        assert_eq!(shown.len(), SERVICES_MAX + 1);
        assert_eq!(shown[0].service, format!("s{}", SERVICES_MAX + 2));
        assert_eq!((shown[SERVICES_MAX].service.as_str(), shown[SERVICES_MAX].inbox), ("other", 3));
        assert_eq!(services(&all[..2]).len(), 2);
    }
}
