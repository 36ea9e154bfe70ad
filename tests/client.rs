//! The client of commands that ask a running server: with the address, the certificate and the key of its INI file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
mod common;

use std::path::Path;

use common::TestServer;
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::{X509, X509NameBuilder};
use pserve::client::{Client, ClientError};
use pserve::config::Config;

const HELLO: &str = "from plugincore.baseplugin import BasePlugin
class Hello(BasePlugin):
    def request_handler(self, **data):
        return {'agent': data['request_headers']['User-Agent'], 'x': data.get('x')}
";

/// A client for the server's INI file, with its real port.
fn client_of(server: &TestServer) -> Client {
    let text = server.read_ini().replace("port=0", &format!("port={}", server.address().port()));
    let config = Config::parse(&text, &server.path("pserve.ini"), &|_| None).expect("the server runs with it");
    Client::for_settings(&config.settings).expect("a client")
}

fn write_certificate(folder: &Path) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "somewhere.else").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(9).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    std::fs::write(folder.join("cert.pem"), builder.build().to_pem().unwrap()).unwrap();
    std::fs::write(folder.join("key.pem"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
}

#[test]
fn an_answer_comes_with_its_status_and_its_body() {
    let server = TestServer::with_plugin("hello.py", HELLO);
    let client = client_of(&server);
    let answer = client.get("/hello?x=a%20b").unwrap();
    assert!(answer.is_success());
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    let value: serde_json::Value = answer.json().unwrap();
    assert_eq!(value["x"], "a b");
    assert_eq!(value["agent"], concat!("pserve/", env!("CARGO_PKG_VERSION")));
    assert_eq!(client.get("/nothing").unwrap().status, 404);
    assert!(client.get("/metrics").unwrap().text().contains("pserve_requests_total{plugin=\"hello\",code=\"200\"} 1"));
}

#[test]
fn the_global_key_is_sent() {
    let server = TestServer::build().ini("[auth]\napikey=opensesame").start();
    assert_eq!(server.get("/plugins").status, 403);
    assert_eq!(client_of(&server).get("/plugins").unwrap().status, 200);
}

#[test]
fn a_unix_socket_is_asked_without_tls() {
    let build = TestServer::build();
    write_certificate(build.path());
    let socket = build.path().join("here.sock");
    let build = build.ini("[SSL]\nenabled=true\ncertfile=cert.pem\nkeyfile=key.pem").plugin("hello.py", HELLO);
    let server = build.env("PSERVE_NETWORK_BINDTO", &format!("127.0.0.1 unix:{}", socket.display())).start();
    let text = server.read_ini().replace("bindto=127.0.0.1", &format!("bindto=unix:{}", socket.display()));
    let config = Config::parse(&text, &server.path("pserve.ini"), &|_| None).unwrap();
    let client = Client::for_settings(&config.settings).unwrap();
    assert_eq!(client.get("/hello").unwrap().status, 200);
    assert_eq!(client.place(), format!("unix:{}", socket.display()));
}

#[test]
fn a_certificate_of_any_name_will_do_when_it_is_the_one_of_the_ini_file() {
    let build = TestServer::build();
    write_certificate(build.path());
    let server = build.ini("[SSL]\nenabled=true\ncertfile=cert.pem\nkeyfile=key.pem").plugin("hello.py", HELLO).start();
    assert_eq!(client_of(&server).get("/hello").unwrap().status, 200);
    write_certificate(server.path("pserve.ini").parent().unwrap());
    let problem = client_of(&server).get("/hello").unwrap_err();
    assert!(matches!(problem, ClientError::OtherCertificate { .. }), "{problem}");
    assert!(problem.to_string().contains("SIGHUP"), "{problem}");
}
