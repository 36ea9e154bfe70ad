//! The least that a warp program can be: a small JSON answer, 1,000 rows of JSON, a folder of files.
//! `bare-warp PORT FOLDER` serves on the loopback address until it is killed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use warp::Filter;

#[derive(Deserialize)]
struct Query {
    name: Option<String>,
}

#[derive(Serialize)]
struct Small {
    hello: String,
    n: u32,
}

#[derive(Serialize)]
struct Row {
    id: u32,
    name: String,
    value: f64,
    tags: [&'static str; 2],
    ok: bool,
}

#[derive(Serialize)]
struct Rows {
    rows: Arc<Vec<Row>>,
}

fn rows() -> Vec<Row> {
    (0..1000)
        .map(|id| Row {
            id,
            name: format!("row number {id} of a thousand rows"),
            value: f64::from(id) * 1.5,
            tags: ["a", "b"],
            ok: true,
        })
        .collect()
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(port), Some(folder)) = (arguments.next().and_then(|text| text.parse::<u16>().ok()), arguments.next())
    else {
        eprintln!("usage: bare-warp PORT FOLDER");
        std::process::exit(2);
    };
    let table = Arc::new(rows());
    let small = warp::path!("small").and(warp::query::<Query>()).map(|query: Query| {
        let hello = query.name.unwrap_or_else(|| "world".to_owned());
        warp::reply::json(&Small { hello, n: 1 })
    });
    let large = warp::path!("rows").map(move || warp::reply::json(&Rows { rows: table.clone() }));
    let files = warp::path("static").and(warp::fs::dir(folder));
    warp::serve(small.or(large).or(files)).run(([127, 0, 0, 1], port)).await;
}
