//! An application and its tests: mail for many customers, at most two at a time for each, with
//! retries, sent at the requested time.
//!
//! `cargo run --example mailer --features testkit` sends three mails. The tests at the end are the
//! purpose of this example: they run all of it, including actors, log and rows, on one thread and
//! in virtual time. `docs/testing.md` explains them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use forebay::{
    Builder, Context, Drain, Entry, HandlerError, HandlerOptions, Json, Limits, RetryPolicy,
    Runtime,
};

/// A mail as written by a customer.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Mail {
    to: String,
    text: String,
}

/// The mail server; a test inspects it and makes it fail.
#[derive(Default)]
struct Outbox {
    sent: Mutex<Vec<String>>,
    /// This many deliveries fail before one succeeds.
    failures: Mutex<u32>,
}

impl Outbox {
    async fn deliver(&self, mail: &Mail) -> Result<(), std::io::Error> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if *failures > 0 {
                *failures -= 1;
                return Err(std::io::Error::other("the server is busy"));
            }
        }
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).push(mail.to.clone());
        Ok(())
    }
}

/// The application: its handlers and limits.
fn application(outbox: &Arc<Outbox>) -> Builder {
    let outbox = Arc::clone(outbox);
    let retry = RetryPolicy { attempts_max: 5, backoff_first_ms: 60_000, ..RetryPolicy::default() };
    let options = HandlerOptions { retry, ..HandlerOptions::default() };
    Runtime::builder().handler_with("mail", options, move |_: Context, Json(mail): Json<Mail>| {
        let outbox = Arc::clone(&outbox);
        async move {
            outbox.deliver(&mail).await?;
            Ok::<_, HandlerError>(())
        }
    })
}

/// A mail of a customer.
fn mail(customer: &str, to: &str) -> Entry {
    let mail = Mail { to: to.to_owned(), text: "hello".to_owned() };
    let entry = Entry::to("mail").scope(customer).json(&mail);
    entry.expect("a mail can be written as JSON")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let outbox = Arc::new(Outbox::default());
    let runtime = application(&outbox).in_memory().start().await?;
    runtime.rules().upsert("*", Limits::concurrency(2)).await?;
    for to in ["ann@example.org", "bob@example.org", "cid@example.org"] {
        runtime.enqueue(mail("acme", to)).await?.result_bytes().await?;
        eprintln!("sent to {to}");
    }
    runtime.shutdown(Drain::within(Duration::from_secs(5))).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use forebay::testkit::TestRuntime;

    use super::*;

    fn start(outbox: &Arc<Outbox>) -> TestRuntime {
        let outbox = Arc::clone(outbox);
        let mut app = TestRuntime::start(move || application(&outbox));
        let rules = app.runtime().rules();
        app.run(rules.upsert("*", Limits::concurrency(2))).expect("the rule is valid");
        app
    }

    fn sent(outbox: &Outbox) -> usize {
        outbox.sent.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    #[test]
    fn a_customer_gets_two_at_a_time_without_blocking_others() {
        let outbox = Arc::default();
        let mut app = start(&outbox);
        for number in 0..6 {
            app.enqueue(mail("acme", &format!("{number}@example.org")));
        }
        app.enqueue(mail("zenith", "zoe@example.org"));
        app.advance(Duration::from_secs(1));
        assert_eq!(sent(&outbox), 3, "two of acme, one of zenith");
        app.advance(Duration::from_secs(1));
        assert_eq!(sent(&outbox), 5);
        app.advance(Duration::from_secs(1));
        assert_eq!(sent(&outbox), 7);
    }

    #[test]
    fn a_mail_that_fails_twice_is_sent_by_the_third_attempt() {
        let outbox = Arc::new(Outbox { failures: Mutex::new(2), ..Outbox::default() });
        let mut app = start(&outbox);
        let entry = app.enqueue(mail("acme", "ann@example.org"));
        let begun = app.now();
        assert!(app.outcome(&entry).is_success());
        // A minute (less the jitter) after each failure: waiting takes no real time.
        let took = app.now().since(begun);
        assert!(took > Duration::from_secs(90) && took < Duration::from_secs(130), "{took:?}");
        assert_eq!(sent(&outbox), 1);
    }

    #[test]
    fn mail_for_tomorrow_is_sent_tomorrow() {
        let outbox = Arc::default();
        let mut app = start(&outbox);
        let tomorrow = app.now().after(Duration::from_secs(24 * 3600));
        let entry = app.enqueue(mail("acme", "ann@example.org").run_at(tomorrow));
        app.advance(Duration::from_secs(24 * 3600 - 1));
        assert_eq!(sent(&outbox), 0);
        app.restart();
        app.advance(Duration::from_secs(2));
        assert_eq!(sent(&outbox), 1, "a restart in between changes nothing");
        assert!(app.outcome_now(&entry).is_some());
    }

    #[test]
    fn another_node_continues_where_the_first_one_died() {
        let outbox = Arc::<Outbox>::default();
        let shared = Arc::clone(&outbox);
        let mut app = TestRuntime::builder().nodes(2).start(move || application(&shared));
        let rules = app.runtime().rules();
        app.run(rules.upsert("*", Limits::concurrency(2))).expect("the rule is valid");
        let entries: Vec<_> = (0..6)
            .map(|number| app.enqueue(mail("acme", &format!("{number}@example.org"))))
            .collect();
        app.advance(Duration::from_millis(1_500));
        assert_eq!(sent(&outbox), 2, "two more are being sent");
        app.fail_over();
        for entry in &entries {
            assert!(app.outcome(entry).is_success());
        }
        assert_eq!(sent(&outbox), 6, "those being sent at the crash are sent once, too");
    }
}
