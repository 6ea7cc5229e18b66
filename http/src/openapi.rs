//! What the routes do not say about themselves: the title, the token, answers of every request.

use utoipa::{
    PartialSchema as _, ToSchema as _,
    openapi::{
        Components, ContentBuilder, InfoBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use crate::problem::{Code, PROBLEM_JSON, ProblemBody};

/// Name of the token's scheme.
const TOKEN: &str = "token";

/// Answers that every request may get, with their descriptions.
const ALWAYS: [(&str, &str); 10] = [
    ("400", "The request makes no sense"),
    ("401", "The token is missing, unknown or revoked"),
    ("403", "The token's role does not allow it, or the request comes from a foreign site"),
    ("404", "There is no such thing"),
    ("408", "The body did not arrive in time"),
    ("413", "The body is too large"),
    ("415", "The media type of the body is not understood"),
    ("431", "The headers are too large"),
    ("500", "Storage failed, or a bug"),
    ("503", "Nothing was done, or it is not known whether it was (see `code`): try again"),
];

fn problem(description: &str) -> Response {
    let schema = RefOr::Ref(Ref::from_schema_name("Problem"));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(description).content(PROBLEM_JSON, content).build()
}

/// Errors are problems, whatever the route says about their media type.
fn complete_operation(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let is_error = status.starts_with('4') || status.starts_with('5');
        if let RefOr::T(response) = response
            && is_error
            && response.content.contains_key("application/json")
            && status != "503"
        {
            *response = problem(&response.description);
        }
    }
    for (status, description) in ALWAYS {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| problem(description).into());
    }
    if operation.security.is_none() {
        let none: [&str; 0] = [];
        operation.security = Some(vec![SecurityRequirement::new(TOKEN, none)]);
    }
}

/// Completes the document of the routes.
pub(crate) fn complete(document: &mut OpenApi) {
    let description = "Durable, flow-controlled work queues. Times are ISO 8601, durations like \
                       `1m30s`. Errors are RFC 9457 problems with a stable `code`.";
    document.info = InfoBuilder::new()
        .title("forebay")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    for (name, schema) in
        [(ProblemBody::name(), ProblemBody::schema()), (Code::name(), Code::schema())]
    {
        components.schemas.insert(name.into_owned(), schema);
    }
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme(TOKEN, token);
    for path in document.paths.paths.values_mut() {
        let operations =
            [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch];
        operations.into_iter().flatten().for_each(complete_operation);
    }
}
