//! Tokens, roles, hosts and origins.

use forebay::{
    control::{Request, TokenRole},
    http::{HttpOptions, token_hash},
};
use serde_json::json;

use super::Served;

/// Adds a stored token; its text is its name.
fn add(served: &Served, name: &str, role: TokenRole) {
    let sha256: String = token_hash(name).iter().map(|byte| format!("{byte:02x}")).collect();
    let request = Request::TokenCreate { name: name.to_owned(), role, sha256 };
    served.tokio.block_on(served.runtime.ask(request)).unwrap();
}

#[test]
fn every_request_but_health_and_the_document_needs_a_token_with_its_role() {
    let served = Served::new();
    for (name, role) in
        [("read", TokenRole::Read), ("write", TokenRole::Write), ("admin", TokenRole::Admin)]
    {
        add(&served, name, role);
    }
    let client = |token: Option<&str>| served.client.with(token);
    let document = client(None).get("/v1/openapi.json").expect(200);
    client(None).get("/v1/health").expect(200);
    let admin_only = ["put /v1/rules", "delete /v1/rules", "post /v1/rules/rollback"];
    for (path, methods) in document["paths"].as_object().unwrap() {
        let target = path
            .replace("{id}", "ent_x")
            .replace("{service}", "double")
            .replace("/v1/rules", "/v1/rules?pattern=a")
            .replace("?pattern=a/", "/");
        for method in methods.as_object().unwrap().keys() {
            if path == "/v1/health" {
                continue;
            }
            let request = format!("{method} {path}");
            let send =
                |token: Option<&str>| client(token).send(&method.to_uppercase(), &target, &[], b"");
            let refused = |token: Option<&str>| send(token).status;
            assert_eq!(refused(None), 401, "{request}");
            assert_eq!(refused(Some("unknown")), 401, "{request}");
            if request == "get /v1/events" {
                continue;
            }
            let reads = method == "get" || path == "/v1/rules/test";
            assert_eq!(refused(Some("read")) == 403, !reads, "{request}");
            let is_admin = admin_only.contains(&request.as_str());
            assert_eq!(refused(Some("write")) == 403, is_admin, "{request}");
            assert!(![401, 403].contains(&refused(Some("admin"))), "{request}");
        }
    }
    let revoke = Request::TokenRevoke { name: "read".to_owned() };
    served.tokio.block_on(served.runtime.ask(revoke)).unwrap();
    let refused = client(Some("read")).get("/v1/entries");
    refused.problem(401, "unauthorized");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
}

#[test]
fn a_foreign_host_or_origin_is_refused() {
    let mut options = HttpOptions::default();
    options.hosts = vec!["forebay.example".to_owned()];
    let served = Served::with(options);
    let get = |headers: &[(&str, &str)]| served.client.send("GET", "/v1/rules", headers, b"");
    let host = format!("localhost:{}", served.client.address.port());
    get(&[("host", &host)]).expect(200);
    get(&[("host", "forebay.example")]).expect(200);
    get(&[("host", "[::1]:7420")]).expect(200);
    for evil in ["evil.example", "evil.example:7420", "localhost.evil.example"] {
        get(&[("host", evil)]).problem(403, "forbidden");
    }
    get(&[("host", "a b")]).problem(400, "bad_input");
    let same = format!("http://{host}");
    get(&[("host", &host), ("origin", &same)]).expect(200);
    for origin in ["http://evil.example", "null", "http://localhost:1"] {
        get(&[("host", &host), ("origin", origin)]).problem(403, "forbidden");
    }
    let answer = get(&[]);
    assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-control")));
}

#[test]
fn unknown_paths_and_methods_are_problems() {
    let served = Served::new();
    let client = &served.client;
    for path in
        ["/", "/v1", "/v2/entries", "/v1/entries/../rules", "/v1/%2e%2e/rules", "/v1//rules"]
    {
        client.get(path).problem(404, "not_found");
    }
    let answer = client.send("DELETE", "/v1/entries", &[], b"");
    answer.problem(405, "method_not_allowed");
    assert!(answer.header("allow").unwrap().contains("GET"));
    let wrong = client.send("POST", "/v1/bulk", &[("content-type", "text/plain")], b"{}");
    wrong.problem(415, "unsupported_media_type");
    client.post("/v1/bulk", &json!([])).problem(400, "bad_input");
}

#[test]
fn without_its_runtime_a_router_answers_that_it_has_stopped() {
    let served = Served::new();
    served.tokio.block_on(served.runtime.shutdown(forebay::Drain::now())).unwrap();
    let enqueued = served.client.send("POST", "/v1/services/double/entries", &[], b"1");
    enqueued.problem(503, "stopped");
    assert_eq!(served.client.get("/v1/health").status, 503);
}
