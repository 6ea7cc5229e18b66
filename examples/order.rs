//! An order that charges a card, ships, sends a mail and waits for an approval.
//!
//! `cargo run --example order -- DIR` places one order, whose data are in DIR. It prints each
//! effect on the outside world. End it at any time, also with kill -9, and start it again with the
//! same directory: the order continues, and finished steps are not repeated. While it waits for its
//! approval, another terminal decides:
//!
//! `forebay --data-dir DIR resolve ENTRY approved --value true`
//!
//! `docs/calls.md` explains it.

use std::{
    error::Error,
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use forebay::{
    Builder, Context, Drain, Entry, HandlerError, HandlerOptions, Json, Runtime, StepId,
};

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Order {
    id: String,
    cents: u64,
}

/// Everything outside of forebay: a card processor, a carrier, a mail server. Each effect is a line
/// in a file.
struct Outside(PathBuf);

impl Outside {
    /// Does something that takes a moment. `id` is the same in every attempt: a real service would
    /// use it as an idempotency key.
    async fn effect(&self, what: &str, id: String) -> Result<String, std::io::Error> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.0)?;
        writeln!(file, "{what} {id}")?;
        say(format!("{what} {id}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(format!("{what}-done"))
    }

    async fn step(&self, what: &str, id: StepId) -> Result<String, std::io::Error> {
        self.effect(what, id.to_string()).await
    }
}

fn say(text: String) {
    let mut out = std::io::stdout().lock();
    // A reader that is gone is no reason to stop.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

async fn order(context: Context, Json(order): Json<Order>) -> Result<Json<String>, HandlerError> {
    let outside = context.state::<Outside>().ok_or("no outside")?;
    let charge = context.step("charge", |id| outside.step("charge", id)).await?;
    let ship = Entry::to("ship").key(&order.id).json(&order)?;
    let parcel: String = context.call("ship", ship).await?;
    context.send("mail", Entry::to("mail").json(&parcel)?).await?;
    context.sleep("cool down", Duration::from_millis(200)).await?;
    say(format!("{} waits for its approval", context.entry()));
    let approved: bool = context.promise("approved").await?;
    if !approved {
        context.step("refund", |id| outside.step("refund", id)).await?;
        return Ok(Json("refunded".to_owned()));
    }
    Ok(Json(format!("{charge}, {parcel}")))
}

async fn ship(context: Context, Json(_): Json<Order>) -> Result<Json<String>, HandlerError> {
    let outside = context.state::<Outside>().ok_or("no outside")?;
    Ok(Json(context.step("ship", |id| outside.step("ship", id)).await?))
}

async fn mail(context: Context, Json(_): Json<String>) -> Result<(), HandlerError> {
    let outside = context.state::<Outside>().ok_or("no outside")?;
    outside.effect("mail", context.entry().to_string()).await?;
    Ok(())
}

fn application(dir: &Path) -> Builder {
    // An approval may take days: an order that waits longer than a second uses no memory.
    let suspend_after = Some(Duration::from_secs(1));
    let options = HandlerOptions {
        suspend_after,
        // This example is killed all the time.
        interruptions_max: Some(u32::MAX),
        ..HandlerOptions::default()
    };
    Runtime::builder()
        .data_dir(dir)
        .state(Outside(dir.join("effects")))
        .handler_with("order", options, order)
        .handler_with("ship", options, ship)
        .handler_with("mail", options, mail)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let dir = std::env::args().nth(1).ok_or("name a directory for the data")?;
    let dir = Arc::<Path>::from(Path::new(&dir));
    std::fs::create_dir_all(&dir)?;
    let runtime = application(&dir).start().await?;
    // Placing it again finds the order that is there.
    let order = Order { id: "order-1".to_owned(), cents: 4_200 };
    let entry = Entry::to("order").idempotency_key(&order.id).json(&order)?;
    let entry = runtime.enqueue(entry).await?;
    say(format!("placed {}", entry.id()));
    let receipt: String = entry.result().await?;
    say(format!("receipt: {receipt}"));
    runtime.shutdown(Drain::within(Duration::from_secs(5))).await?;
    Ok(())
}
