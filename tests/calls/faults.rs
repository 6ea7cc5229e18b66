//! Orders while actors die, processes crash and leaders change: each operation returns the same in
//! every attempt, every child exists once, every order ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use forebay::{
    Builder, Context, Entry, HandlerError, HandlerOptions, Json, RetryPolicy, Runtime,
    testkit::TestRuntime,
};

use super::success;

const ORDERS: u32 = 6;
const CHILDREN: u32 = 2;
/// Longer than the pause before a partition is started again that died too often.
const RESTART_PAUSE: Duration = Duration::from_secs(30);

/// Virtual time within which all orders end once the faults are over.
const ENDS_WITHIN: Duration = Duration::from_secs(600);

/// The first result of each operation of each order.
#[derive(Clone, Default)]
struct Returned {
    first: Arc<Mutex<BTreeMap<String, String>>>,
    /// Operations that returned something else later.
    changed: Arc<Mutex<Vec<String>>>,
}

impl Returned {
    /// An operation returned: the same as the first time. An error is noted for the test, because
    /// an order that panics is tried again.
    fn check(&self, operation: String, value: String) {
        let mut returned = self.first.lock().unwrap();
        let first = returned.entry(operation.clone()).or_insert_with(|| value.clone());
        if *first != value {
            let text = format!("{operation} returned {first}, then {value}");
            self.changed.lock().unwrap().push(text);
        }
    }

    #[track_caller]
    fn hold(&self, seed: u64) {
        let changed = self.changed.lock().unwrap();
        assert!(changed.is_empty(), "seed {seed}: {changed:?}");
    }
}

async fn order(
    context: Context,
    Json(number): Json<u32>,
    returned: Returned,
) -> Result<Json<u32>, HandlerError> {
    let fresh = || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok::<_, HandlerError>(uuid::Uuid::new_v4().to_string())
    };
    let check = |what: &str, value: String| returned.check(format!("{number} {what}"), value);
    check("charge", context.step("charge", |_| fresh()).await?);
    check("now", format!("{:?}", context.now()));
    let mut calls = Vec::new();
    for child in 0..CHILDREN {
        let child = Entry::to("ship").json(&(number, child))?;
        calls.push(context.call::<String>("ship", child));
    }
    let parcels: Vec<_> = context.join(calls).await.into_iter().collect::<Result<_, _>>()?;
    check("parcels", format!("{parcels:?}"));
    context.sleep("cool down", Duration::from_secs(2 + u64::from(number))).await?;
    check("later", format!("{:?}", context.now()));
    let both = (context.step("a", |_| fresh()), context.step("b", |_| fresh()));
    let (a, b) = context.join(both).await;
    check("both", format!("{:?}", (a?, b?)));
    let mail = context.send("mail", Entry::to("mail").json(&number)?).await?;
    check("mail", mail.to_string());
    let approved: u32 = context.promise("approved").await?;
    Ok(Json(approved))
}

fn application(returned: &Returned) -> Builder {
    let returned = returned.clone();
    let options = HandlerOptions {
        suspend_after: Some(Duration::from_secs(1)),
        interruptions_max: Some(u32::MAX),
        retry: RetryPolicy { attempts_max: 0, ..RetryPolicy::default() },
        ..HandlerOptions::default()
    };
    Runtime::builder()
        .partitions(3)
        .handler_with("order", options, move |context, number| {
            order(context, number, returned.clone())
        })
        .handler_with("ship", options, |context: Context, Json(_): Json<(u32, u32)>| async move {
            context.sleep("sail", Duration::from_secs(3)).await?;
            Ok::<_, HandlerError>(Json(uuid::Uuid::new_v4().to_string()))
        })
        .handler_with("mail", options, |_: Context, Json(_): Json<u32>| async { Ok(()) })
}

/// Runs orders while faults happen.
fn run(seed: u64, nodes: usize) {
    let returned = Returned::default();
    let of = returned.clone();
    let builder = TestRuntime::builder().seed(seed).nodes(nodes);
    let mut app = builder.start(move || application(&of));
    let orders: Vec<_> =
        (0..ORDERS).map(|number| app.enqueue(Entry::to("order").json(&number).unwrap())).collect();
    let mut random = seed;
    let mut draw = |bound: u64| {
        // SplitMix64 (Steele, Lea and Flood 2014).
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    };
    let settled = draw(20);
    let mut fail_overs = 0;
    for round in 0..25 {
        app.advance(Duration::from_millis(draw(1_500)));
        returned.hold(seed);
        if round == settled {
            app.advance(RESTART_PAUSE);
            for order in &orders {
                app.resolve(order, "approved", &7);
            }
        }
        match draw(8) {
            0 => drop(app.kill("partition")),
            1 => drop(app.kill("limiter")),
            2 => drop(app.kill("supervisor")),
            3 => drop(app.kill("vqueue")),
            4 if nodes > 1 && fail_overs + 1 < nodes => {
                fail_overs += 1;
                app.fail_over();
            }
            4 | 5 => app.restart(),
            6 if draw(3) == 0 => drop(app.replay_stale_epochs()),
            _ => {}
        }
    }
    app.advance(RESTART_PAUSE);
    let by = app.now().after(ENDS_WITHIN);
    for order in &orders {
        let outcome = loop {
            returned.hold(seed);
            match app.outcome_now(order) {
                Some(outcome) => break outcome,
                None => assert!(app.now() < by, "seed {seed}: {} does not end", order.id()),
            }
            app.advance(Duration::from_secs(1));
        };
        assert_eq!(success(outcome), "7", "seed {seed}");
    }
    app.advance(Duration::from_secs(60));
    returned.hold(seed);
    let runtime = app.runtime();
    for (service, count) in [("ship", ORDERS * CHILDREN), ("mail", ORDERS)] {
        let found = app.run(runtime.entries().service(service).list(100)).unwrap();
        assert_eq!(found.len(), count as usize, "{service}, seed {seed}");
    }
}

#[test]
fn orders_end_while_actors_die_and_processes_crash() {
    (0..12).for_each(|seed| run(seed, 1));
}

#[test]
fn orders_end_while_leaders_change() {
    (100..108).for_each(|seed| run(seed, 3));
}
