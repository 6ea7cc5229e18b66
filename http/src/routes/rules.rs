//! Rules.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request as HttpRequest, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response as HttpResponse},
};
use forebay_api::{BookView, Request, Response, RuleEdit};
use forebay_messages::rule::LimitsPatch;

use crate::{
    auth::{Admin, Reader},
    extract::Query,
    model::{Book, Books, Impact, Rollback, Rule, RuleBody, RuleQuery, RulesQuery, RulesTest},
    problem::{Code, Problem, ProblemBody, unexpected},
    state::Server,
};

/// Keys in the effect of a change, by default.
const KEYS: usize = 100;
/// Maximum number of keys.
const KEYS_MAX: usize = 10_000;

async fn book(server: &Server, request: Request) -> Result<BookView, Problem> {
    match server.backend.ask(request).await? {
        Response::Rules { book } => Ok(book),
        other => Err(unexpected(&other)),
    }
}

fn with_tag(version: u64, body: impl IntoResponse) -> HttpResponse {
    ([(header::ETAG, format!("\"{version}\""))], body).into_response()
}

fn find(book: &BookView, pattern: &str) -> Option<Rule> {
    book.rules.iter().find(|rule| rule.pattern == pattern).map(Into::into)
}

/// The rule book, or one rule of it.
#[utoipa::path(
    get, path = "/v1/rules", tag = "rules", params(RulesQuery),
    responses((status = 200, description = "The book; with `pattern`, only that rule",
        body = Book))
)]
pub(super) async fn read(
    _: Reader,
    State(server): State<Arc<Server>>,
    Query(query): Query<RulesQuery>,
) -> Result<HttpResponse, Problem> {
    let mut view = book(&server, Request::Rules).await?;
    let Some(pattern) = query.pattern else {
        return Ok(with_tag(view.version, Json(Book::from(&view))));
    };
    view.rules.retain(|rule| rule.pattern == pattern);
    match view.rules.first() {
        None => Err(no_rule(&pattern)),
        Some(rule) => Ok(with_tag(rule.version, Json(Book::from(&view)))),
    }
}

fn no_rule(pattern: &str) -> Problem {
    Problem::new(Code::NotFound, format!("there is no rule `{pattern}`"))
}

/// The version that a rule must have; 0: it must not exist.
fn if_version(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(None),
        (None, Some("*")) => Ok(Some(0)),
        (Some(tag), None) => {
            let number = tag.trim_matches('"').parse::<u64>().ok().filter(|version| *version > 0);
            number.map(Some).ok_or_else(|| {
                Problem::bad_input("If-Match is the version of the rule in quotes, like \"3\"")
            })
        }
        _ => Err(Problem::bad_input("give If-Match, or If-None-Match: *")),
    }
}

/// A failed precondition of the request is not a conflict.
fn precondition(problem: Problem, if_version: Option<u64>) -> Problem {
    match (problem.code, if_version) {
        (Code::Conflict, Some(_)) => Problem::new(Code::PreconditionFailed, problem.detail),
        _ => problem,
    }
}

/// Set all limits of a rule; absent ones are removed.
#[utoipa::path(
    put, path = "/v1/rules", tag = "rules",
    params(
        RuleQuery,
        ("If-Match" = Option<String>, Header,
            description = "Only if the rule has this version, in quotes"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if there is no rule"),
    ),
    request_body = RuleBody,
    responses(
        (status = 200, description = "The rule", body = Rule),
        (status = 409, description = "Refused", body = ProblemBody),
        (status = 412, description = "It has another version", body = ProblemBody),
    )
)]
pub(super) async fn put(
    Admin(caller): Admin,
    State(server): State<Arc<Server>>,
    Query(query): Query<RuleQuery>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let if_version = if_version(request.headers())?;
    let body: RuleBody = server.read_json(request).await?;
    let change = RuleEdit {
        delete: false,
        limits: LimitsPatch::from(body.limits()?),
        description: Some(body.description.unwrap_or_default()),
        disabled: body.disabled,
    };
    let pattern = query.pattern.clone();
    let request = Request::RuleSet { pattern, change, if_version, author: caller.name };
    let changed = book(&server, request).await;
    let changed = changed.map_err(|problem| precondition(problem, if_version))?;
    let rule = find(&changed, &query.pattern).ok_or_else(|| no_rule(&query.pattern))?;
    Ok(with_tag(rule.version, Json(rule)))
}

/// Delete a rule.
#[utoipa::path(
    delete, path = "/v1/rules", tag = "rules",
    params(
        RuleQuery,
        ("If-Match" = Option<String>, Header,
            description = "Only if the rule has this version, in quotes"),
    ),
    responses(
        (status = 200, description = "The book without it", body = Book),
        (status = 409, description = "Refused", body = ProblemBody),
        (status = 412, description = "It has another version", body = ProblemBody),
    )
)]
pub(super) async fn delete(
    Admin(caller): Admin,
    State(server): State<Arc<Server>>,
    Query(query): Query<RuleQuery>,
    headers: HeaderMap,
) -> Result<HttpResponse, Problem> {
    let if_version = if_version(&headers)?;
    let change = RuleEdit { delete: true, ..RuleEdit::default() };
    let (pattern, author) = (query.pattern, caller.name);
    let changed = book(&server, Request::RuleSet { pattern, change, if_version, author }).await;
    let changed = changed.map_err(|problem| precondition(problem, if_version))?;
    Ok(with_tag(changed.version, Json(Book::from(&changed))))
}

/// The effect that changed concurrency limits would have. Nothing is changed.
#[utoipa::path(
    post, path = "/v1/rules/test", tag = "rules", request_body = RulesTest,
    responses((status = 200, description = "The effect", body = Impact))
)]
pub(super) async fn test(
    _: Reader,
    State(server): State<Arc<Server>>,
    request: HttpRequest,
) -> Result<Json<Impact>, Problem> {
    let RulesTest { rules, key, limit } = server.read_json(request).await?;
    let rules = rules.into_iter().map(|rule| (rule.pattern, rule.concurrency)).collect();
    let limit = limit.unwrap_or(KEYS).min(KEYS_MAX);
    match server.backend.ask(Request::RulesTest { rules, key, limit }).await? {
        Response::RulesTest { impact } => Ok(Json((&impact).into())),
        other => Err(unexpected(&other)),
    }
}

/// Earlier rule books, with authors.
#[utoipa::path(
    get, path = "/v1/rules/history", tag = "rules",
    responses((status = 200, description = "Oldest first", body = Books))
)]
pub(super) async fn history(
    _: Reader,
    State(server): State<Arc<Server>>,
) -> Result<Json<Books>, Problem> {
    match server.backend.ask(Request::RulesHistory { in_parts: false }).await? {
        Response::RulesHistory { books, .. } => {
            Ok(Json(Books { books: books.iter().map(Into::into).collect() }))
        }
        other => Err(unexpected(&other)),
    }
}

/// Put the rules of an earlier version into force again, as a new version.
#[utoipa::path(
    post, path = "/v1/rules/rollback", tag = "rules", request_body = Rollback,
    responses(
        (status = 200, description = "The new book", body = Book),
        (status = 409, description = "Refused", body = ProblemBody),
    )
)]
pub(super) async fn rollback(
    Admin(caller): Admin,
    State(server): State<Arc<Server>>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let Rollback { version } = server.read_json(request).await?;
    let request = Request::RulesRollback { version, author: caller.name };
    let changed = book(&server, request).await?;
    Ok(with_tag(changed.version, Json(Book::from(&changed))))
}
