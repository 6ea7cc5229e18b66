//! Steps: computations that run once.
//!
//! Must always hold: a stored result is never computed again; a step returns only stored results,
//! so that a replay takes the same path. A failure that is not final is retried by the step's own
//! policy, or else ends the attempt.

use std::{future::Future, pin::pin, sync::Arc};

use bytes::Bytes;
use bytestring::ByteString;
use forebay_engine::partition::machine::backoff;
use forebay_messages::{
    actor::AttemptEnd,
    command::RetryPolicy,
    journal::{
        JournalFailure, JournalFailureKind, JournalKind, JournalOutcome, StepId, fingerprint,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Ended, Journal, OperationError,
    current::{Polled, enter},
    operations::decode,
    state::Intent,
    ticket::Ticket,
};
use crate::HandlerError;

/// The code of a step, and its retry policy.
struct Step<F> {
    compute: F,
    retry: Option<RetryPolicy>,
}

impl Journal {
    /// Runs a step. `compute` is called again when it failed and the policy, or another attempt,
    /// retries it.
    pub(crate) async fn step<T, F, Fut, E>(
        self: Arc<Self>,
        name: ByteString,
        retry: Option<RetryPolicy>,
        compute: F,
    ) -> Result<T, OperationError>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(StepId) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<HandlerError>,
    {
        let kind = JournalKind::Step;
        let intent = Intent { kind, fingerprint: fingerprint(kind, None), operation: None };
        let ticket = Arc::clone(&self).issue(name, intent)?;
        if ticket.is_new {
            ticket.started().await;
            let outcome = self.compute(&ticket, Step { compute, retry }).await;
            ticket.write_step(outcome);
        }
        let outcome = ticket.outcome().await;
        decode(&ticket, outcome)
    }

    /// Computes until there is a result to store, or the attempt ends.
    async fn compute<T, F, Fut, E>(&self, ticket: &Ticket, mut step: Step<F>) -> JournalOutcome
    where
        T: Serialize,
        F: FnMut(StepId) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<HandlerError>,
    {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = match inside(&mut step.compute, ticket.id.clone()).await {
                Ok(result) => return self.remember(&result),
                Err(error) => error.into().into_end(),
            };
            let (message, detail) = match error {
                AttemptEnd::Terminal { message, detail } => {
                    return failed(JournalFailureKind::Terminal, message, detail);
                }
                AttemptEnd::Retry { message, detail, .. } => (message, detail),
                end => return ticket.end_attempt(Ended::Attempt(end)).await,
            };
            let Some(policy) = &step.retry else {
                let message = ByteString::from(format!("step `{}`: {message}", ticket.id.key));
                let end = AttemptEnd::Retry { message, detail, random: 0 };
                return ticket.end_attempt(Ended::Attempt(end)).await;
            };
            if policy.attempts_max != 0 && attempt >= policy.attempts_max {
                return failed(JournalFailureKind::Exhausted, message, detail);
            }
            let wait = backoff(policy, attempt, self.port.random());
            self.port.delay(wait).await;
        }
    }

    /// The outcome to store for a result.
    fn remember(&self, result: &impl Serialize) -> JournalOutcome {
        let refused = |text: String| JournalOutcome::failure(JournalFailureKind::Terminal, &text);
        match serde_json::to_vec(result) {
            Ok(bytes) if bytes.len() > self.result_len_max => refused(format!(
                "the step's result has {} bytes as JSON; {} are allowed",
                bytes.len(),
                self.result_len_max
            )),
            Ok(bytes) => JournalOutcome::Success(bytes.into()),
            Err(error) => refused(format!("the step's result cannot be written as JSON: {error}")),
        }
    }
}

fn failed(kind: JournalFailureKind, message: ByteString, detail: Bytes) -> JournalOutcome {
    JournalOutcome::Failure(JournalFailure { kind, message, detail })
}

/// Runs the step as [`Polled::Step`], where no operation may start.
async fn inside<F, Fut>(compute: &mut F, id: StepId) -> Fut::Output
where
    F: FnMut(StepId) -> Fut,
    Fut: Future,
{
    let future = {
        let _entered = enter(Polled::Step);
        compute(id)
    };
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        let _entered = enter(Polled::Step);
        future.as_mut().poll(context)
    })
    .await
}
