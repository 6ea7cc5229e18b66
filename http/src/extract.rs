//! Reading requests.
//!
//! Must always hold: a body has a maximum length, a maximum time, and its bytes are counted against
//! the memory for all bodies together; what is wrong is named.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, Path, Request},
    http::{HeaderMap, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use forebay_messages::{EntryId, VQueueId};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::{
    problem::{Code, Problem},
    state::{BODY_UNIT, Server},
};

/// Maximum length of a body that is neither a payload nor a batch, in bytes.
pub(crate) const REQUEST_LEN_MAX: usize = 1 << 20;
/// When to try again if there is no memory.
const BUSY_FOR: Duration = Duration::from_secs(1);

/// A body, and its share of the memory.
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Server {
    /// Reads a body of at most `len_max` bytes.
    pub(crate) async fn read(
        self: &Arc<Self>,
        headers: &HeaderMap,
        body: Body,
        len_max: usize,
    ) -> Result<Read, Problem> {
        let too_large = || {
            let text = format!("the body may have at most {len_max} bytes");
            Problem::new(Code::TooLarge, text)
        };
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok());
        let announced = announced.and_then(|len| len.parse::<u64>().ok());
        if announced.is_some_and(|len| len > len_max as u64) {
            return Err(too_large());
        }
        if headers.contains_key(header::CONTENT_ENCODING) {
            let text = "compressed bodies are not understood";
            return Err(Problem::new(Code::UnsupportedMediaType, text));
        }
        let until = Instant::now() + self.options.body_time_max;
        let (mut body, mut bytes, mut permits, mut room) = (body, BytesMut::new(), Vec::new(), 0);
        loop {
            let frame = timeout_at(until, body.frame()).await.map_err(|_| {
                let text = format!("the body did not arrive in {:?}", self.options.body_time_max);
                Problem::new(Code::Timeout, text)
            })?;
            let Some(frame) = frame else { break };
            let frame = frame
                .map_err(|error| Problem::bad_input(format!("the body cannot be read: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > len_max - bytes.len() {
                return Err(too_large());
            }
            while bytes.len() + data.len() > room {
                permits.push(self.body_permit()?);
                room += BODY_UNIT;
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Read { bytes: bytes.freeze(), _permits: permits })
    }

    fn body_permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.body_memory).try_acquire_owned().map_err(|_| {
            let text = "too many large requests are being read; nothing was done";
            Problem::new(Code::Busy, text).retry_after(BUSY_FOR)
        })
    }

    /// Reads a body as JSON.
    pub(crate) async fn read_json<T: DeserializeOwned>(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<T, Problem> {
        let (parts, body) = request.into_parts();
        let media = media_type(&parts.headers);
        if !matches!(media.as_deref(), None | Some("application/json")) {
            let text = "the body must be application/json";
            return Err(Problem::new(Code::UnsupportedMediaType, text));
        }
        let read = self.read(&parts.headers, body, REQUEST_LEN_MAX).await?;
        from_json(&read.bytes)
    }

    /// As [`Server::read_json`]; an empty body is the default.
    pub(crate) async fn read_json_or_default<T: DeserializeOwned + Default>(
        self: &Arc<Self>,
        request: Request,
    ) -> Result<T, Problem> {
        let (parts, body) = request.into_parts();
        let read = self.read(&parts.headers, body, REQUEST_LEN_MAX).await?;
        match read.bytes.trim_ascii().is_empty() {
            true => Ok(T::default()),
            false => from_json(&read.bytes),
        }
    }
}

/// The media type of a body, without parameters and in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media = value.split(';').next()?.trim();
    Some(media.to_ascii_lowercase())
}

/// Decodes JSON; an error names the field.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let wrong = |text: String| Problem::bad_input(format!("the body is not as expected: {text}"));
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        match path.as_str() {
            "." => wrong(error.into_inner().to_string()),
            _ => wrong(format!("{path}: {}", error.into_inner())),
        }
    })?;
    reader.end().map_err(|error| wrong(error.to_string()))?;
    Ok(value)
}

/// Query parameters.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query.map(|query| Self(query.0)).map_err(|error| {
            let error: &dyn std::error::Error = &error;
            let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            Problem::bad_input(format!("the query is not as expected: {text}"))
        })
    }
}

/// A part of the path that must parse.
pub(crate) struct Id<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: FromStr + Named,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|error| Problem::bad_input(error.body_text()))?;
        let not_found = || Problem::new(Code::NotFound, format!("`{text}` is no {}", T::WHAT));
        text.parse().map(Self).map_err(|_| not_found())
    }
}

/// The name of a kind of path part, for errors.
pub(crate) trait Named {
    /// In an error.
    const WHAT: &'static str;
}

impl Named for EntryId {
    const WHAT: &'static str = "id of an entry";
}

impl Named for VQueueId {
    const WHAT: &'static str = "id of a queue";
}

impl Named for u64 {
    const WHAT: &'static str = "number";
}

impl Named for String {
    const WHAT: &'static str = "name";
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only decoded")]
        inner: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only decoded")]
        number: u32,
    }

    #[test]
    fn errors_name_the_field() {
        let wrong = |text: &str| from_json::<Outer>(text.as_bytes()).unwrap_err().detail;
        assert!(wrong(r#"{"inner":{"number":"x"}}"#).contains("inner.number: invalid type"));
        assert!(wrong(r#"{"inner":{"numbr":1}}"#).contains("unknown field `numbr`"));
        assert!(wrong(r#"{"inner":{"number":1}} x"#).contains("trailing characters"));
        assert!(from_json::<Outer>(br#"{"inner":{"number":1}}"#).is_ok());
    }
}
