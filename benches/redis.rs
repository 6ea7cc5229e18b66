//! The workload of `forebay bench` on a Redis server: a list per step; each change is synced before
//! it is answered (`appendfsync always`). `scripts/bench-redis` starts the server and runs both
//! alternately.
//!
//! A producer pushes a batch and waits until all of it has completed. A consumer moves up to a
//! batch to a list of its own (so that its crash loses nothing) in one pipeline, reads the items
//! and removes them from that list: one by one, as forebay's entries end, or all at once. Each has
//! its own connection and thread; there are at most as many consumers as producers, the number that
//! is best for the server. No limits, no retries.
//!
//! With keys, items of one key run one after the other: a list per key, whose head is the running
//! item, and a queue of the keys that may proceed. Three scripts maintain them, each for a whole
//! batch.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::{
    error::Error,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use redis::{Client, Cmd, Connection, RedisResult, cmd, pipe};

type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const QUEUE: &str = "queue";
/// Appends items to the lists of their keys: key, item, key, item and so on.
const ENQUEUE: &str = "for i = 1, #ARGV, 2 do \
    if redis.call('RPUSH', 'key:' .. ARGV[i], ARGV[i + 1]) == 1 then \
        redis.call('RPUSH', 'queue', ARGV[i]) end end return 0";
/// The first item of each key.
const PEEK: &str = "local items = {} for i = 1, #ARGV do \
    items[i] = redis.call('LINDEX', 'key:' .. ARGV[i], 0) end return items";
/// Ends the first items of these keys and removes them from a consumer's list: list, keys.
const COMPLETE: &str = "for i = 2, #ARGV do redis.call('LREM', ARGV[1], 1, ARGV[i]) \
    redis.call('LPOP', 'key:' .. ARGV[i]) \
    if redis.call('LLEN', 'key:' .. ARGV[i]) > 0 then \
        redis.call('RPUSH', 'queue', ARGV[i]) end end return 1";
/// How long a consumer waits for items before it checks whether the run is over, in seconds.
const POLL_S: u64 = 1;
/// Results count only after this time.
const WARM_UP: Duration = Duration::from_secs(1);
/// Bytes of an item that identify its producer.
const NUMBER_LEN: usize = 16;

/// A separate connection, without a time limit for answers.
fn connect(port: u16) -> RedisResult<Connection> {
    Client::open(format!("redis://127.0.0.1:{port}/"))?.get_connection()
}

/// The batches in flight: number of unfinished items of each.
struct Batches {
    left: Vec<(Mutex<usize>, Condvar)>,
    is_over: AtomicBool,
    batch: usize,
    payload: usize,
    /// 0 means no keys.
    keys: u64,
    /// Whether a batch is removed as a whole.
    ends_at_once: bool,
}

impl Batches {
    /// An item of a producer: the producer's number, then padding.
    fn item(&self, producer: usize, number: u64) -> Vec<u8> {
        let mut item = vec![0x5a; self.payload];
        item[..8].copy_from_slice(&(producer as u64).to_be_bytes());
        item[8..NUMBER_LEN].copy_from_slice(&number.to_be_bytes());
        item
    }

    /// A pseudorandom key for the item (splitmix64).
    fn key(&self, item: &[u8]) -> Vec<u8> {
        let half = |at: usize| item[at..at + 8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let mut mixed = half(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ half(8);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("{}", (mixed ^ (mixed >> 31)) % self.keys).into_bytes()
    }

    /// An item was removed from its consumer's list.
    fn ended(&self, item: &[u8]) -> Done {
        let producer = u64::from_be_bytes(item[..8].try_into()?);
        let (left, all) =
            self.left.get(usize::try_from(producer)?).ok_or("an item without a producer")?;
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.checked_sub(1).ok_or("an item ended twice")?;
        if *left == 0 {
            all.notify_one();
        }
        Ok(())
    }

    /// Waits until all of a producer's items have ended.
    fn wait(&self, producer: usize) {
        let (left, all) = &self.left[producer];
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        while *left > 0 {
            left = all.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Pushes batches until the run is over; returns when each ended, and how long it took.
fn produce(batches: &Batches, producer: usize, port: u16) -> Done<Vec<(Instant, Duration)>> {
    let (mut server, mut number, mut lives) = (connect(port)?, 0, Vec::new());
    while !batches.is_over.load(Ordering::Acquire) {
        let items: Vec<_> =
            (number..).take(batches.batch).map(|number| batches.item(producer, number)).collect();
        number += batches.batch as u64;
        *batches.left[producer].0.lock().unwrap_or_else(PoisonError::into_inner) = batches.batch;
        let called = Instant::now();
        let push = if batches.keys == 0 {
            let mut push = cmd("RPUSH");
            push.arg(QUEUE).arg(&items);
            push
        } else {
            let mut push = script(ENQUEUE);
            items.iter().for_each(|item| {
                push.arg(batches.key(item)).arg(&item[..]);
            });
            push
        };
        let _len: i64 = push.query(&mut server)?;
        batches.wait(producer);
        lives.push((Instant::now(), called.elapsed()));
    }
    Ok(lives)
}

/// Takes items, up to a batch at a time, until the run is over and no more arrive.
fn consume(batches: &Batches, consumer: u64, port: u16) -> Done {
    let mut server = connect(port)?;
    let own = format!("own-{consumer}");
    // Waits for the first item; takes others that are available.
    let mut take = pipe();
    take.cmd("BLMOVE").arg(QUEUE).arg(&own).arg("LEFT").arg("RIGHT").arg(POLL_S);
    for _ in 1..batches.batch {
        take.cmd("LMOVE").arg(QUEUE).arg(&own).arg("LEFT").arg("RIGHT");
    }
    loop {
        let taken: Vec<Option<Vec<u8>>> = take.query(&mut server)?;
        let taken: Vec<Vec<u8>> = taken.into_iter().flatten().collect();
        if taken.is_empty() {
            if batches.is_over.load(Ordering::Acquire) {
                return Ok(());
            }
            continue;
        }
        if batches.keys == 0 {
            complete(batches, &mut server, &own, &taken)?;
        } else {
            complete_keyed(batches, &mut server, &own, &taken)?;
        }
    }
}

/// Reads items and removes them from a consumer's list, which contains no others.
fn complete(batches: &Batches, server: &mut Connection, own: &str, items: &[Vec<u8>]) -> Done {
    for item in items {
        // The work itself: read the item once.
        std::hint::black_box(item[0]);
    }
    let mut removal = pipe();
    if batches.ends_at_once {
        removal.cmd("DEL").arg(own);
    } else {
        items.iter().for_each(|item| {
            removal.cmd("LREM").arg(own).arg(1).arg(&item[..]);
        });
    }
    let removed: Vec<i64> = removal.query(server)?;
    if removed.iter().any(|count| *count != 1) {
        return Err("an item is gone".into());
    }
    items.iter().try_for_each(|item| batches.ended(item))
}

/// The same for the first items of these keys.
fn complete_keyed(batches: &Batches, server: &mut Connection, own: &str, keys: &[Vec<u8>]) -> Done {
    // A key without an item is an error of the conversion.
    let items: Vec<Vec<u8>> = script(PEEK).arg(keys).query(server)?;
    let 1 = script(COMPLETE).arg(own).arg(keys).query::<i64>(server)? else {
        return Err("an item is gone".into());
    };
    for item in items {
        std::hint::black_box(item[0]);
        batches.ended(&item)?;
    }
    Ok(())
}

/// The beginning of a script's call; the server keeps it compiled.
fn script(text: &'static str) -> Cmd {
    let mut call = cmd("EVAL");
    call.arg(text).arg(0);
    call
}

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = arguments.iter().map(|one| one.parse()).collect::<Result<_, _>>()?;
    let [port, in_flight, batch, consumers, keys, ends_at_once, payload, seconds] = numbers[..]
    else {
        let usage = "usage: redis PORT IN_FLIGHT BATCH CONSUMERS KEYS AT_ONCE PAYLOAD SECONDS";
        return Err(usage.into());
    };
    let (port, in_flight) = (u16::try_from(port)?, usize::try_from(in_flight)?);
    let (batch, payload) = (usize::try_from(batch)?, usize::try_from(payload)?);
    if batch == 0 || in_flight < batch || consumers == 0 || payload < NUMBER_LEN {
        return Err("a batch needs an item, an item 16 bytes, and there must be a consumer".into());
    }
    let producers = in_flight / batch;
    let left = (0..producers).map(|_| Default::default()).collect();
    let (is_over, ends_at_once) = (AtomicBool::new(false), ends_at_once > 0);
    let batches = Arc::new(Batches { left, is_over, batch, payload, keys, ends_at_once });
    let consume = |number| {
        let batches = Arc::clone(&batches);
        thread::spawn(move || {
            if let Err(error) = consume(&batches, number, port) {
                // Producers would wait forever for its items.
                eprintln!("a consumer failed: {error}");
                std::process::exit(1);
            }
        })
    };
    let consumers: Vec<_> = (0..consumers).map(consume).collect();
    let produce = |number| {
        let batches = Arc::clone(&batches);
        thread::spawn(move || produce(&batches, number, port))
    };
    let producers: Vec<_> = (0..producers).map(produce).collect();
    thread::sleep(WARM_UP);
    let begun = Instant::now();
    thread::sleep(Duration::from_secs(seconds));
    let window = begun..Instant::now();
    batches.is_over.store(true, Ordering::Release);
    let mut lives = Vec::new();
    for producer in producers {
        lives.extend(producer.join().map_err(|_| "a producer panicked")??);
    }
    for consumer in consumers {
        consumer.join().map_err(|_| "a consumer panicked")?;
    }
    let mut took: Vec<_> =
        lives.iter().filter(|(at, _)| window.contains(at)).map(|(_, took)| *took).collect();
    took.sort_unstable();
    let at = |part: usize| took.get(took.len() * part / 100).map_or(0, Duration::as_micros);
    let per_s = (took.len() * batch) as f64 / (window.end - window.start).as_secs_f64();
    println!("{{\"jobs_per_s\":{per_s:.0},\"life_p50_us\":{},\"life_p99_us\":{}}}", at(50), at(99));
    Ok(())
}
