//! Links: one method, its arguments fixed, for whoever has the link.

use crate::support::{Node, POLICY, ask, installed_at};

const NEEDS: &str = "storage = \"1 MiB\"\ncalls = [\"link.*\", \"store.*\"]";

const CODE: &str = r#"
def make(api, seconds=60, who="you"):
    api.output.write(api.link.make("greet", {"who": who}, seconds=seconds).encode())

def end(api, link):
    api.link.end(link)

def greet(api, who, path=""):
    api.output.type("text/html; charset=utf-8")
    api.output.write(f"<p>{who} {path}".encode())

def file(api):
    api.output.write(api.link.make("save", seconds=60).encode())

def save(api):
    api.output.type("application/pdf", "Übersicht 1.pdf")
    api.output.write(b"%PDF")

def fixed(api):
    api.output.write(api.link.make("greet", {"who": "you", "path": "its own"}, seconds=60).encode())

def wrong(api):
    api.output.write(api.link.make("fail", seconds=60).encode())

def fail(api):
    raise ValueError("private")

def secret(api):
    api.output.write(b"secret")
"#;

#[tokio::test]
async fn a_link_runs_its_method_with_its_arguments_and_nothing_else() {
    let node = Node::start(POLICY, "");
    let function = installed_at(node.address, NEEDS, CODE).await;
    let link = String::from_utf8(function.invoke("make", "{}").await.body.to_vec()).unwrap();
    let page = ask(node.address, "GET", &link, &[("accept", "text/html")], "").await;
    assert_eq!((page.status.as_u16(), page.body.as_ref()), (200, b"<p>you ".as_slice()));
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(
        page.headers["content-security-policy"].to_str().unwrap().starts_with("sandbox allow-scripts allow-downloads; default-src 'none'")
    );
    assert_eq!(ask(node.address, "GET", &format!("{link}/a/b%20c"), &[], "").await.body, "<p>you a/b c");
    // It is no token, reaches no other method, and changes nothing.
    let token = format!("Bearer bento-invoke-{}", link.trim_start_matches("/l/"));
    assert_eq!(ask(node.address, "POST", "/v1/invoke/secret", &[("authorization", &token)], "").await.code(), "unknown-token");
    assert_eq!(ask(node.address, "GET", &link.replace("/l/", "/l/x"), &[], "").await.code(), "no-link");
    assert_eq!(ask(node.address, "POST", &link, &[], "").await.code(), "method");
    let other = ask(node.address, "GET", &format!("{}?who=me", link), &[], "").await;
    assert_eq!(other.body, "<p>you ");
    // A browser is told in a page.
    let gone = ask(node.address, "GET", "/l/nothing", &[("accept", "text/html,*/*")], "").await;
    assert_eq!(gone.status, 404);
    assert!(gone.body.starts_with(b"<!doctype html>"));

    // Asking for its head runs nothing, and where in its code it went wrong is not told.
    assert_eq!(ask(node.address, "HEAD", &link, &[], "").await.status, 405);
    let fixed = String::from_utf8(function.invoke("fixed", "{}").await.body.to_vec()).unwrap();
    assert_eq!(ask(node.address, "GET", &fixed, &[], "").await.body, "<p>you its own");
    assert_eq!(ask(node.address, "GET", &format!("{fixed}/other"), &[], "").await.code(), "no-link");
    let wrong = String::from_utf8(function.invoke("wrong", "{}").await.body.to_vec()).unwrap();
    let failed = ask(node.address, "GET", &wrong, &[], "").await.problem();
    assert_eq!((failed.detail.as_str(), failed.traceback), ("ValueError: private", None));

    let file = String::from_utf8(function.invoke("file", "{}").await.body.to_vec()).unwrap();
    let saved = ask(node.address, "GET", &file, &[], "").await;
    assert_eq!(saved.headers["content-disposition"], "attachment; filename*=UTF-8''%C3%9Cbersicht%201.pdf");
    assert!(saved.whole);
}

#[tokio::test]
async fn a_link_lasts_over_a_restart_until_it_is_ended_or_its_time_or_its_function_is_over() {
    let node = Node::start(POLICY, "");
    let mut function = installed_at(node.address, NEEDS, CODE).await;
    let make = async |seconds: u32| {
        String::from_utf8(function.invoke("make", &format!("{{\"seconds\": {seconds}}}")).await.body.to_vec()).unwrap()
    };
    let (long, short, ended) = (make(600).await, make(1).await, make(600).await);
    assert!(function.invoke("end", &format!("{{\"link\": \"{ended}\"}}")).await.whole);
    let again = function.invoke("end", &format!("{{\"link\": \"{ended}\"}}")).await;
    assert!(again.problem().detail.contains("Missing"), "{}", again.problem().detail);
    let node = node.killed_and_started();
    function.address = node.address;
    // It opens what is sealed, before its client has come.
    assert_eq!(ask(node.address, "GET", &long, &[], "").await.body, "<p>you ");
    assert_eq!(ask(node.address, "GET", &ended, &[], "").await.code(), "no-link");
    let begun = std::time::Instant::now();
    while ask(node.address, "GET", &short, &[], "").await.status == 200 {
        assert!(begun.elapsed().as_secs() < 20, "it never ends");
    }
    assert_eq!(function.end().await.status, 204);
    assert_eq!(ask(node.address, "GET", &long, &[], "").await.code(), "no-link");
    let log = node.log.lock().unwrap().clone();
    assert!(!log.contains(&long[3..]), "a link is a secret");
}
