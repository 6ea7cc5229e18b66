//! Enqueueing.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response as HttpResponse},
};

use crate::{
    auth::Writer,
    backend::{NewEntry, Stored},
    extract::{Id, Query, from_json, media_type},
    model::{BatchItem, EnqueueQuery, Enqueued, Envelope},
    problem::{Code, Problem, ProblemBody},
    state::Server,
};

/// Media type of an envelope, or of an array of them.
const ENVELOPE: &str = "application/vnd.forebay.entry+json";
/// Media type of a batch, with one envelope per line.
const NDJSON: &str = "application/x-ndjson";
/// Maximum number of entries in one batch.
const BATCH_LEN_MAX: usize = 10_000;
/// What an envelope adds to a payload, at most, in bytes: names, and base64.
const ENVELOPE_ROOM: usize = 64 << 10;
/// Name of the header with an idempotency key.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Enqueue an entry, or a batch.
///
/// The body is the payload and options are in the query. With
/// `application/vnd.forebay.entry+json` the body is an envelope with payload and options, or an
/// array of them; with `application/x-ndjson` it has one envelope per line. In a batch each entry
/// has its own result; entries for the same partition are stored together or not at all.
#[utoipa::path(
    post, path = "/v1/services/{service}/entries", tag = "entries",
    params(
        ("service" = String, Path, description = "The handler that runs it"),
        EnqueueQuery,
        ("Idempotency-Key" = Option<String>, Header,
            description = "Another entry with this key, service and scope adds nothing; not for a \
                           batch"),
    ),
    request_body(content(
        (String = "application/octet-stream"),
        (Envelope = "application/vnd.forebay.entry+json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 202, description = "It is stored", body = Enqueued),
        (status = 200, description = "One object for each entry of a batch, in order; or the one \
            entry that was stored before", body = serde_json::Value),
        (status = 409, description = "Refused", body = ProblemBody),
        (status = 413, description = "Too large", body = ProblemBody),
        (status = 415, description = "The encoding is not understood", body = ProblemBody),
        (status = 429, description = "As many entries wait as a rule allows", body = ProblemBody),
    )
)]
pub(super) async fn enqueue(
    _: Writer,
    State(server): State<Arc<Server>>,
    Id(service): Id<String>,
    Query(query): Query<EnqueueQuery>,
    request: Request,
) -> Result<HttpResponse, Problem> {
    let (parts, body) = request.into_parts();
    let media = media_type(&parts.headers).unwrap_or_default();
    let is_envelope = media == ENVELOPE;
    let payload_len_max = server.backend.payload_len_max();
    let len_max = match media.as_str() {
        NDJSON => server.options.batch_len_max,
        // Base64 takes a third more; a batch may be an array.
        ENVELOPE => (payload_len_max * 4 / 3 + ENVELOPE_ROOM).max(server.options.batch_len_max),
        _ => payload_len_max,
    };
    if (is_envelope || media == NDJSON) && !query.is_empty() {
        return Err(Problem::bad_input("options belong into the envelope, not into the query"));
    }
    let key = idempotency_key(&parts.headers)?;
    let read = server.read(&parts.headers, body, len_max).await?;
    let now = server.backend.now();
    let is_array = is_envelope && read.bytes.trim_ascii_start().first() == Some(&b'[');
    if is_array || media == NDJSON {
        if key.is_some() {
            return Err(Problem::bad_input(
                "Idempotency-Key is for one entry; in a batch each has its own idempotency_key",
            ));
        }
        let envelopes = if is_array { from_json(&read.bytes)? } else { lines(&read.bytes)? };
        return batch(&server, &service, envelopes, now).await;
    }
    let mut entry = match is_envelope {
        true => from_json::<Envelope>(&read.bytes)?.entry(&service, now)?,
        false => query.entry(&service, read.bytes.clone(), now)?,
    };
    if key.is_some() && entry.idempotency_key.is_some() && key != entry.idempotency_key {
        return Err(Problem::bad_input("Idempotency-Key and idempotency_key differ"));
    }
    entry.idempotency_key = entry.idempotency_key.or(key);
    one(server.backend.enqueue(entry).await?)
}

/// The value of `Idempotency-Key`: a plain text, or one in quotes.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Problem::bad_input("Idempotency-Key is not ASCII"))?;
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    Ok(Some(inner.unwrap_or(text).to_owned()))
}

fn lines(bytes: &[u8]) -> Result<Vec<Envelope>, Problem> {
    let lines = bytes.split(|byte| *byte == b'\n').zip(1..);
    let lines = lines.filter(|(line, _)| !line.trim_ascii().is_empty());
    let envelopes = lines.map(|(line, number)| {
        from_json(line)
            .map_err(|problem| Problem::bad_input(format!("line {number}: {}", problem.detail)))
    });
    envelopes.collect()
}

fn view(stored: &Stored) -> Enqueued {
    Enqueued {
        id: stored.id.to_string(),
        existing: stored.existing,
        payload_differs: stored.payload_differs.filter(|_| stored.existing),
    }
}

fn one(stored: Stored) -> Result<HttpResponse, Problem> {
    let status = if stored.existing { StatusCode::OK } else { StatusCode::ACCEPTED };
    let path = format!("/v1/entries/{}", stored.id);
    let location =
        HeaderValue::try_from(path).map_err(|error| Problem::new(Code::Bug, error.to_string()))?;
    Ok((status, [(header::LOCATION, location)], Json(view(&stored))).into_response())
}

async fn batch(
    server: &Server,
    service: &str,
    envelopes: Vec<Envelope>,
    now: u64,
) -> Result<HttpResponse, Problem> {
    if envelopes.len() > BATCH_LEN_MAX {
        let text = format!("a batch has at most {BATCH_LEN_MAX} entries");
        return Err(Problem::new(Code::TooLarge, text));
    }
    let mut items: Vec<Option<BatchItem>> = Vec::with_capacity(envelopes.len());
    let mut entries: Vec<NewEntry> = Vec::with_capacity(envelopes.len());
    for envelope in envelopes {
        items.push(match envelope.entry(service, now) {
            Ok(entry) => {
                entries.push(entry);
                None
            }
            Err(problem) => Some(problem.into()),
        });
    }
    let mut stored = server.backend.enqueue_each(entries).await.into_iter();
    let items = items.into_iter().map(|item| match item {
        Some(item) => item,
        None => match stored.next() {
            Some(Ok(stored)) => BatchItem::Stored(view(&stored)),
            Some(Err(problem)) => problem.into(),
            None => Problem::new(Code::Bug, "an entry has no result").into(),
        },
    });
    Ok(Json(items.collect::<Vec<_>>()).into_response())
}
